// SPDX-License-Identifier: Apache-2.0
#include "session.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <system_error>

#include "../boundary.h"
#include "log.h"

namespace syncnas::server {

namespace {

namespace ffi = tvm::ffi;
namespace fs = std::filesystem;

// Names that clients give to files; nothing outside of the session's folder has a name.
std::string InFolder(const std::string& folder, const std::string& name) {
  const fs::path path(name);
  bool outside = path.is_absolute();
  for (const fs::path& part : path) outside = outside || part == "..";
  if (outside) TVM_FFI_THROW(ValueError) << "'" << name << "' is outside of the work folder";
  return folder + "/" + name;
}

void RegisterFileFunctions(const std::string& folder) {
  ffi::Function::SetGlobal("tvm.rpc.server.workpath",
                           Typed([folder](const ffi::String& name) {
                             return ffi::String(InFolder(folder, name));
                           }),
                           true);
  ffi::Function::SetGlobal("tvm.rpc.server.load_module",
                           Typed([folder](const ffi::String& name) {
                             return LoadModule(InFolder(folder, name));
                           }),
                           true);
}

[[noreturn]] void Serve(int descriptor, const std::string& folder, pid_t server) {
  setpgid(0, 0);
  // Neither a server that is killed nor one that was killed just now leaves us behind.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != server) _exit(1);
  signal(SIGTERM, SIG_DFL);
  signal(SIGINT, SIG_DFL);
  int code = 0;
  try {
    RegisterFileFunctions(folder);
    TvmFunction("rpc.ServerLoop")(descriptor);
  } catch (const std::exception& error) {
    Log(std::string("session: ") + error.what());
    code = 1;
  }
  // No destructors: OpenCL drivers have been seen to hang in theirs.
  std::fflush(nullptr);
  _exit(code);
}

long ResidentMegabytes(pid_t process) {
  std::FILE* file = std::fopen(("/proc/" + std::to_string(process) + "/statm").c_str(), "r");
  if (file == nullptr) return 0;
  long total = 0, resident = 0;
  const int read = std::fscanf(file, "%ld %ld", &total, &resident);
  std::fclose(file);
  return read == 2 ? resident * (sysconf(_SC_PAGESIZE) / 1024) / 1024 : 0;
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

void Session::Start(Socket client, const Options& options, const std::string& folder,
                    double seconds) {
  folder_ = folder;
  memory_mb_ = options.memory_mb;
  seconds_ = options.session_seconds;
  if (seconds > 0 && (seconds_ == 0 || seconds < seconds_)) seconds_ = seconds;
  std::error_code problem;
  fs::create_directories(folder, problem);
  if (problem) return Log("no session: cannot make " + folder + ": " + problem.message());
  client.MakeBlocking();
  start_ = std::chrono::steady_clock::now();
  const pid_t server = getpid();
  process_ = fork();
  if (process_ == 0) Serve(client.Release(), folder, server);
  if (process_ < 0) {
    Log(std::string("no session: cannot make a process: ") + std::strerror(errno));
    CleanUp(0);
  }
}

void Session::Attend() {
  if (!running()) return;
  int status = 0;
  if (waitpid(process_, &status, WNOHANG) == process_) return CleanUp(status);
  if (seconds_ > 0 && SecondsSince(start_) > seconds_) {
    Log("session ended: its " + std::to_string(static_cast<long>(seconds_)) + " s are over");
    return End();
  }
  const long used_mb = memory_mb_ > 0 ? ResidentMegabytes(process_) : 0;
  if (used_mb > memory_mb_) {
    Log("session ended: it uses " + std::to_string(used_mb) + " MB, the limit is " +
        std::to_string(memory_mb_));
    End();
  }
}

void Session::End() {
  if (!running()) return;
  int status = 0;
  kill(process_, SIGKILL);
  while (waitpid(process_, &status, 0) < 0 && errno == EINTR) {
  }
  CleanUp(status);
}

void Session::CleanUp(int status) {
  if (process_ > 0) {
    kill(-process_, SIGKILL);  // what the session itself has started
    if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL) {
      Log(std::string("the session's process crashed: ") + strsignal(WTERMSIG(status)));
    }
    char line[64];
    std::snprintf(line, sizeof(line), "session done after %.1f s", SecondsSince(start_));
    Log(line);
  }
  process_ = -1;
  std::error_code problem;
  fs::remove_all(folder_, problem);
}

}  // namespace syncnas::server
