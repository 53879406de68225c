#include "machine/python_tool.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

// The tools answer in lines of JSON on stdout, see python/outrider/text/tool.py.
constexpr size_t kAnswerLimit = 64u << 20;
constexpr const char* kPythonHint =
    "scripts/setup.sh installs what the text tools need; OUTRIDER_PYTHON names an interpreter";

fs::path program_folder() { return fs::read_symlink("/proc/self/exe").parent_path(); }

std::string interpreter() {
  if (const char* chosen = std::getenv("OUTRIDER_PYTHON"); chosen && *chosen) return chosen;
  const auto beside = program_folder() / "python";
  return fs::exists(beside) ? beside.string() : "python3";
}

/// This process's environment with the text tools in PYTHONPATH.
std::vector<std::string> tool_environment() {
  const std::string name = "PYTHONPATH=";
  auto path = name + (program_folder().parent_path() / "lib/outrider/python").string();
  std::vector<std::string> result;
  for (char** entry = environ; *entry; ++entry) {
    if (std::string_view(*entry).starts_with(name)) {
      path += ":" + std::string(*entry + name.size());
    } else {
      result.emplace_back(*entry);
    }
  }
  result.push_back(path);
  return result;
}

std::vector<char*> null_terminated(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (auto& string : strings) pointers.push_back(string.data());
  pointers.push_back(nullptr);
  return pointers;
}

/// Ctrl-C reaches the whole process group: the child cleans up, this process reports. Where
/// somebody takes note of signals already, that stays.
class IgnoreInterrupts {
 public:
  IgnoreInterrupts() {
    sigaction(SIGINT, nullptr, &previous_);
    if (previous_.sa_handler == SIG_DFL) signal(SIGINT, SIG_IGN);
  }
  ~IgnoreInterrupts() { sigaction(SIGINT, &previous_, nullptr); }
  IgnoreInterrupts(const IgnoreInterrupts&) = delete;
  IgnoreInterrupts& operator=(const IgnoreInterrupts&) = delete;

 private:
  struct sigaction previous_ = {};
};

int become(std::vector<std::string> arguments, int connection, ToolNotes notes) {
  auto environment = tool_environment();
  const auto argv = null_terminated(arguments), envp = null_terminated(environment);
  signal(SIGINT, SIG_DFL);
  dup2(connection, STDIN_FILENO);
  dup2(connection, STDOUT_FILENO);
  if (notes == ToolNotes::kHidden) dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
  execvpe(argv.front(), argv.data(), envp.data());
  return 127;
}

// Runs a program without a shell.
ChildProcess started(const std::vector<std::string>& arguments, ToolNotes notes) {
  try {
    return ChildProcess([&](int connection) { return become(arguments, connection, notes); },
                        SIGTERM);
  } catch (const std::system_error& error) {
    throw Error(
        ErrorCode::kToolMissing,
        fmt::format("cannot run '{}': {}", printable(arguments.front()), error.code().message()),
        kPythonHint);
  }
}

std::vector<std::string> command_of(const std::string& module,
                                    const std::vector<std::string>& arguments) {
  std::vector<std::string> command{interpreter(), "-m", module};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

ErrorCode code_of(const Json& error) {
  const auto code = static_cast<ErrorCode>(error.value("code", 0));
  return error_code_name(code) == "Unknown" ? ErrorCode::kInternal : code;
}

std::string describe(const ChildEnd& end) {
  return fmt::format("{} {}", end.by_signal ? "was ended by signal" : "ended with status",
                     end.status);
}

}  // namespace

PythonTool::PythonTool(const std::string& module, const std::vector<std::string>& arguments,
                       ToolNotes notes)
    : name_(fmt::format("{} -m {}", printable(interpreter()), module)),
      child_(started(command_of(module, arguments), notes)) {}

// Without its end where the tool ended instead.
std::string PythonTool::read_line() {
  char buffer[1 << 14];
  for (;;) {
    const auto end = read_.find('\n');
    if (end != std::string::npos) {
      const auto line = read_.substr(0, end);
      read_.erase(0, end + 1);
      return line;
    }
    const auto count = read(child_.connection(), buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0 || read_.size() > kAnswerLimit) return {};
    read_.append(buffer, static_cast<size_t>(count));
  }
}

Json PythonTool::answer() {
  const auto answer = Json::parse(read_line(), nullptr, /*allow_exceptions=*/false);
  if (answer.is_object() && answer.contains("result")) return answer["result"];
  if (!answer.is_object() || !answer.contains("error")) {
    shutdown(child_.connection(), SHUT_WR);  // or it might wait for questions
    throw Error(ErrorCode::kToolMissing,
                fmt::format("'{}' {} without an answer", name_, describe(child_.wait())),
                kPythonHint);
  }
  const auto& error = answer["error"];
  throw Error(code_of(error), error.value("message", ""), error.value("hint", ""));
}

Json PythonTool::ask(const Json& question) {
  const auto line = question.dump() + "\n";
  for (size_t sent = 0; sent < line.size();) {
    const auto count =
        send(child_.connection(), line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) break;  // it has ended, as its answer will tell
    sent += static_cast<size_t>(count);
  }
  return answer();
}

Json run_python_tool(const std::string& module, const std::vector<std::string>& arguments,
                     ToolNotes notes) {
  const IgnoreInterrupts guard;
  return PythonTool(module, arguments, notes).answer();
}

}  // namespace outrider
