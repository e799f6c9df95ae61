// SPDX-License-Identifier: Apache-2.0
//
// syncnas.opencl.to_texture(tensor, device id) -> the tensor on that device, as an image
//
// For weights of kernels that read them from images: a float32 or float16 tensor [rows, ..., 4] of the
// host becomes an image of `rows` rows whose texels are the innermost four elements, in an array of
// one image, as TVM's code generator declares it. What is returned is opaque: kernels can be called
// with it, and copying it raises an error.
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>

#include <string>

#include "boundary.h"
#include "device.h"

namespace syncnas::opencl {

namespace {

namespace ffi = tvm::ffi;

constexpr int64_t kTexel = 4;
constexpr const char* kInstead = "; compile the model with --gpu-weights buffer";

struct TextureMemory {
  void AllocData(DLTensor* tensor, Device& device, const ImageFormat& format,
                 const ImageDescription& image, const void* data) {
    tensor->data = device.buffers().AllocateImage(format, image, data, ffi::GetDataSize(*tensor));
  }
  void FreeData(DLTensor* tensor) {
    if (ShuttingDown()) return;
    auto* buffer = static_cast<Buffer*>(tensor->data);
    buffer->device.buffers().Free(buffer);
  }
};

ImageFormat FormatOf(const ffi::Tensor& tensor) {
  const DLDataType type = tensor.dtype();
  const bool is_float = type.code == kDLFloat && type.lanes == 1;
  if (!is_float || (type.bits != 32 && type.bits != 16) || tensor.ndim() < 2 ||
      tensor.size(-1) != kTexel || tensor.device().device_type != kDLCPU ||
      !tensor.IsContiguous() || tensor.numel() == 0) {
    TVM_FFI_THROW(ValueError) << "OpenCL: a texture is made of a contiguous CPU tensor of float32 or "
                              << "float16 whose last dimension is 4";
  }
  return {kClRgba, type.bits == 32 ? kClFloat : kClHalfFloat};
}

void CheckLimits(const Device& device, size_t width, size_t height) {
  if (device.Info<cl_bool>(kClDeviceImageSupport) == kClFalse) {
    TVM_FFI_THROW(RuntimeError) << "OpenCL: device '" << device.name()
                                << "' has no images, and the model's weights are textures" << kInstead;
  }
  const auto max_width = device.Info<size_t>(kClDeviceImage2dMaxWidth);
  const auto max_height = device.Info<size_t>(kClDeviceImage2dMaxHeight);
  if (width > max_width || height > max_height) {
    TVM_FFI_THROW(RuntimeError) << "OpenCL: a weight of the model is a texture of " << width << " x "
                                << height << " texels, device '" << device.name() << "' has up to "
                                << max_width << " x " << max_height << kInstead;
  }
}

ffi::Tensor ToTexture(const ffi::Tensor& tensor, int64_t index) {
  const ImageFormat format = FormatOf(tensor);
  ImageDescription image;
  image.type = kClMemObjectImage2dArray;
  image.height = static_cast<size_t>(tensor.size(0));
  image.width = static_cast<size_t>(tensor.numel() / kTexel) / image.height;
  image.depth = image.array_size = 1;
  Device& device = OpenDevice(static_cast<int>(index));
  CheckLimits(device, image.width, image.height);
  const char* data = static_cast<const char*>(tensor.data_ptr()) + tensor.byte_offset();
  return ffi::Tensor::FromNDAlloc(TextureMemory(), tensor.shape(), tensor.dtype(),
                                  DLDevice{kDLOpenCL, device.index()}, device, format, image, data);
}

TVM_FFI_STATIC_INIT_BLOCK() { DefineGlobals().def("syncnas.opencl.to_texture", ToTexture); }

}  // namespace

}  // namespace syncnas::opencl
