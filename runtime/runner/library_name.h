// SPDX-License-Identifier: Apache-2.0
#ifndef SYNCNAS_RUNTIME_RUNNER_LIBRARY_NAME_H_
#define SYNCNAS_RUNTIME_RUNNER_LIBRARY_NAME_H_

#include <string>

namespace syncnas::runner {

/*!
 * \brief A name for the compiled library in \p folder that no other version of it was loaded by.
 *
 * The dynamic linker knows what it has loaded by the name it was asked for: in one process, a folder
 * that was compiled again would go on with its old kernels. So each version of the file has a
 * spelling of its own.
 */
std::string LibraryName(const std::string& folder);

}  // namespace syncnas::runner

#endif  // SYNCNAS_RUNTIME_RUNNER_LIBRARY_NAME_H_
