#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <thread>

#include "outrider/host/plugin_loader.h"
#include "outrider/host/plugin_lock.h"
#include "plugin_fixtures.h"

namespace outrider {
namespace {

using namespace testing;

/// The built plugin "tiny", which can be loaded once in a process: it brings an operator.
struct Tiny {
  Tiny() {
    write_bytes(folder / "tiny.outrider.so", read_bytes(built_plugin("tiny")));
    PluginLock::of_folder(folder.path()).write(folder.path());
  }

  PrivateFolder folder;
  SpeculativeDecodingModeRegistry registry;
  PluginLoader loader{{.search_path = {folder / "none", folder.path()}, .require_lock = true},
                      registry};
};

void check_tiny_mode(Tiny& tiny) {
  const auto& mode = tiny.loader.load_mode("tiny");
  CHECK(mode.plugin.name == "tiny");
  CHECK(mode.plugin.reference().range == "^0.1");
  CHECK(mode.descriptor->config_schema().resolve(Json::object()) == Json{{"rows", 2}});
  CHECK(mode.descriptor->presets().front().name == "TINY_FOUR");
  CHECK(&tiny.loader.load_mode("tiny") == &mode);
  CHECK(tiny.loader.load({.name = "tiny", .range = "^0.1"}).sha256 == mode.plugin.sha256);
  CHECK(tiny.registry.names() == std::vector<std::string>{"tiny"});
}

Conversion convert_tiny(Tiny& tiny) {
  const ModelConfig config;
  const BaseInfo base{config, "LlamaForCausalLM", at::kFloat, at::kCPU, 1, 3, 8};
  const auto& mode = *tiny.registry.get("tiny").descriptor;
  return mode.convert(base, mode.config_schema().resolve({{"rows", 4}}));
}

at::Tensor tiny_loss(const Conversion& conversion) {
  const auto head = std::make_shared<const LmHead>(at::ones({8, 3}), at::ones({8, 3}));
  const BaseOutputs outputs{.input_embeddings = {},
                            .layer_outputs = {},
                            .last_hidden = at::full({1, 2, 3}, 0.5),
                            .last_hidden_prenorm = {},
                            .head = head};
  return conversion.draft->loss(outputs, {}).total;
}

TEST_CASE("a plugin brings modes, drafts and operators that outlive what loaded it") {
  Conversion conversion;
  {
    Tiny tiny;
    check_tiny_mode(tiny);
    conversion = convert_tiny(tiny);
  }
  CHECK(conversion.attribute == "tiny_module");
  CHECK(conversion.config == Json{{"rows", 4}});
  auto loss = tiny_loss(conversion);
  CHECK(loss.item<float>() == 36.0f);  // 3 · (2 positions · 4 rows · 3 · 0.5)
  const auto weight = conversion.draft->named_parameters()["weight"];
  conversion.draft.reset();
  loss.backward();
  CHECK(at::equal(weight.grad(), at::full({4, 3}, 3.0)));
  const auto twice = c10::Dispatcher::singleton()
                         .findSchemaOrThrow("outrider_tiny::twice", "")
                         .typed<at::Tensor(const at::Tensor&)>();
  CHECK(at::equal(twice.call(at::ones({3})), at::full({3}, 2.0)));
}

TEST_CASE("a plugin that is loaded satisfies what is in range; another version is a conflict") {
  ProbeFolder probe;
  probe.loader.load({.name = "probe"});
  CHECK(probe.ran());
  std::filesystem::remove(probe.file());
  CHECK(probe.loader.load({.name = "probe", .range = "^0.1"}).version == SemVer::parse("0.1.0"));
  write_bytes(probe.file(), renamed(read_bytes(built_plugin("probe")), "probe", "0.2.0"));
  probe.lock();
  const auto load = [&] { probe.loader.load({.name = "probe", .range = "^0.2"}); };
  check_error(ErrorCode::kPluginConflict, "plugin probe 0.2.0", load);
  check_error(ErrorCode::kPluginConflict, "this process has loaded probe 0.1.0", load);
}

TEST_CASE("threads that load one plugin at once get the same mode") {
  ProbeFolder probe;
  std::vector<const RegisteredMode*> modes(20);
  std::vector<std::thread> threads;
  for (auto& mode : modes) {
    threads.emplace_back([&] { mode = &probe.loader.load_mode("probe"); });
  }
  for (auto& thread : threads) thread.join();
  for (const auto* mode : modes) CHECK(mode == modes.front());
}

TEST_CASE("plugin authors can do without a lock") {
  ProbeFolder probe;
  std::filesystem::remove(probe.folder / PluginLock::kFileName);
  PluginLoader loader({.search_path = {probe.folder.path()}, .require_lock = false},
                      probe.registry);
  CHECK(loader.load({.name = "probe"}).name == "probe");
}

/// Runs a test case that is skipped otherwise in a process of its own; its wait status.
int status_alone(const std::string& test_case) {
  const auto program = std::filesystem::read_symlink("/proc/self/exe");
  const auto filter = "--test-case=" + test_case;
  const auto child = fork();
  if (child == 0) {
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    const int nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, STDOUT_FILENO);
    dup2(nowhere, STDERR_FILENO);
    execl(program.c_str(), program.c_str(), "--no-skip", filter.c_str(), nullptr);
    _exit(127);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return status;
}

TEST_CASE("alone: a static constructor of a plugin throws" * doctest::skip()) {
  ScopedVariable behaviour("OUTRIDER_PROBE", "throw in a static constructor");
  ProbeFolder().load();
}

constexpr int kEndedWithModels = 7;

TEST_CASE("alone: models live until the process ends" * doctest::skip()) {
  static auto& tiny = *new Tiny;
  tiny.loader.load_mode("tiny");
  static Conversion conversion = convert_tiny(tiny);
  static at::Tensor loss = tiny_loss(conversion);
  REQUIRE(loss.item<float>() == 36.0f);
  std::filesystem::remove_all(tiny.folder.path());
  std::exit(kEndedWithModels);
}

TEST_CASE("an exception in a static constructor ends the process: nothing can catch it") {
  const int status = status_alone("alone: a static constructor of a plugin throws");
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGABRT);
}

TEST_CASE("a process may end while models of a plugin live") {
  const int status = status_alone("alone: models live until the process ends");
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == kEndedWithModels);
}

}  // namespace
}  // namespace outrider
