"""The API in a dozen lines: python examples/api.py model.onnx"""

import sys

import syncnas_tvm

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/api.py model.onnx")
    result = syncnas_tvm.compile_onnx(sys.argv[1], target="host", output="out")
    print(result.choice.reason, result.deviation)

    model = syncnas_tvm.load("out")
    inputs = model.random_inputs()
    for name, array in model(inputs).items():
        print(name, array.shape, array.argmax())
    print("median", sorted(model.time(inputs))[10], "us")
    print("lanes busy together for", model.profile(inputs).overlap_us, "us")
