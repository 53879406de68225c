#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <doctest/doctest.h>

#include <thread>

#include "outrider/host/plugin_loader.h"
#include "outrider/host/plugin_lock.h"
#include "plugin_fixtures.h"

namespace outrider {
namespace {

using namespace testing;

/// A folder with a changed copy of the probe, locked as it is, and a loader for it.
struct Probe {
  explicit Probe(const std::function<void(Bytes&)>& change = [](Bytes&) {}) {
    unsetenv("OUTRIDER_PROBE_RAN");
    auto bytes = read_bytes(built_plugin("probe"));
    change(bytes);
    write_bytes(file(), bytes);
    lock();
  }

  std::filesystem::path file() const { return folder / "probe.outrider.so"; }
  void lock() const {
    PluginLock lock;
    lock.entries = {{"probe.outrider.so", "probe", "0.1.0", sha256_of_file(file())}};
    lock.write(folder.path());
  }
  bool ran() const { return std::getenv("OUTRIDER_PROBE_RAN") != nullptr; }

  /// Loading fails, no code of the plugin runs, and nothing is registered.
  void check_refused(ErrorCode code, const std::string& part) {
    check_error(code, part, [&] { loader.load({.name = "probe"}); });
    CHECK_FALSE(ran());
    CHECK(registry.names().empty());
  }
  /// The same for an error after the file was opened.
  void check_fails(ErrorCode code, const std::string& part) {
    check_error(code, part, [&] { loader.load({.name = "probe"}); });
    CHECK(registry.names().empty());
  }

  PrivateFolder folder;
  SpeculativeDecodingModeRegistry registry;
  PluginLoader loader{{.search_path = {folder.path()}, .require_lock = true}, registry};
};

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

TEST_CASE("a plugin brings modes, drafts and operators that outlive what loaded it") {
  Conversion conversion;
  {
    Tiny tiny;
    check_tiny_mode(tiny);
    const ModelConfig config;
    const BaseInfo base{config, "LlamaForCausalLM", at::kFloat, at::kCPU, 1, 3, 8};
    const auto& mode = *tiny.registry.get("tiny").descriptor;
    conversion = mode.convert(base, mode.config_schema().resolve({{"rows", 4}}));
  }
  CHECK(conversion.attribute == "tiny_module");
  CHECK(conversion.config == Json{{"rows", 4}});
  const LmHead head(at::ones({8, 3}), at::ones({8, 3}));
  const BaseOutputs outputs{.input_embeddings = {},
                            .layer_outputs = {},
                            .last_hidden = at::full({1, 2, 3}, 0.5),
                            .last_hidden_prenorm = {},
                            .head = head};
  auto loss = conversion.draft->loss(outputs, {}).total;
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
  Probe probe;
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
  Probe probe;
  std::vector<const RegisteredMode*> modes(8);
  std::vector<std::thread> threads;
  for (auto& mode : modes) {
    threads.emplace_back([&] { mode = &probe.loader.load_mode("probe"); });
  }
  for (auto& thread : threads) thread.join();
  for (const auto* mode : modes) CHECK(mode == modes.front());
}

TEST_CASE("a plugin without a lock entry, or changed after it was locked, does not run") {
  Probe unlocked;
  std::filesystem::remove(unlocked.folder / PluginLock::kFileName);
  unlocked.check_refused(ErrorCode::kPluginHashMismatch, "does not list it");
  unlocked.check_refused(ErrorCode::kPluginHashMismatch,
                         "`outrider plugin add " + unlocked.file().string() + "`");
  Probe changed;
  auto bytes = read_bytes(changed.file());
  bytes.back() ^= std::byte{1};
  write_bytes(changed.file(), bytes);
  changed.check_refused(ErrorCode::kPluginHashMismatch, "it changed after it was locked");
  Probe malformed;
  write_bytes(malformed.folder / PluginLock::kFileName, as_bytes("{}"));
  malformed.check_refused(ErrorCode::kInvalidFile, "format_version is not 1");
}

TEST_CASE("plugin authors can do without a lock") {
  Probe probe;
  std::filesystem::remove(probe.folder / PluginLock::kFileName);
  PluginLoader loader({.search_path = {probe.folder.path()}, .require_lock = false},
                      probe.registry);
  CHECK(loader.load({.name = "probe"}).name == "probe");
}

TEST_CASE("untrusted files do not run") {
  Probe writable;
  std::filesystem::permissions(writable.file(), std::filesystem::perms{0666});
  writable.check_refused(ErrorCode::kPluginUntrusted, "can be written to by everyone");
  Probe link;
  std::filesystem::rename(link.file(), link.folder / "elsewhere");
  std::filesystem::create_symlink(link.folder / "elsewhere", link.file());
  link.check_refused(ErrorCode::kPluginUntrusted, "it is a symbolic link");
}

TEST_CASE("a plugin for another SDK, LibTorch or CUDA does not run") {
  Probe([](Bytes& file) {
    edit_stamp(file, [](PluginStamp& stamp) {
      stamp.sdk_abi += 1;
      stamp.torch_version = 2u << 16 | 9u << 8;
    });
  }).check_refused(ErrorCode::kPluginIncompatible, "LibTorch 2.9.0, this program for 2.11.0");
  Probe([](Bytes& file) {
    edit_stamp(file, [](PluginStamp& stamp) { stamp.flags ^= kStampGlibcxxDebug; });
  }).check_refused(ErrorCode::kPluginIncompatible, "rebuild the plugin against this Outrider");
}

TEST_CASE("a plugin with a RUNPATH, without nodelete or with a foreign library does not run") {
  constexpr auto kCode = ErrorCode::kPluginBadDependency;
  Probe([](Bytes& file) {
    edit_dynamic(file, [](Elf64_Dyn& entry) {
      if (entry.d_tag == DT_FLAGS) entry = {DT_RUNPATH, {.d_val = 1}};
    });
  }).check_refused(kCode, "it has a RPATH or RUNPATH");
  Probe([](Bytes& file) {
    edit_dynamic(file, [](Elf64_Dyn& entry) {
      if (entry.d_tag == DT_FLAGS_1) entry.d_un.d_val &= ~uint64_t{DF_1_NODELETE};
    });
  }).check_refused(kCode, "it was linked without -z nodelete");
  Probe([](Bytes& file) {
    replace_text(file, "libstdc++.so.6", "libother.so.66");
  }).check_refused(kCode, "libother.so.66, which no plugin may bring in");
}

TEST_CASE("a plugin with an undefined symbol is refused with the linker's words") {
  Probe probe([](Bytes& file) { replace_text(file, "ConfigSchemaD2Ev", "ConfigSchemaD9Ev"); });
  probe.check_fails(ErrorCode::kPluginLinkFailed, "ConfigSchemaD9Ev");
  check_error(ErrorCode::kPluginLinkFailed, probe.file().string() + ") cannot be loaded: undefined",
              [&] { probe.loader.load({.name = "probe"}); });
}

TEST_CASE("a plugin without its entry function is refused") {
  Probe([](Bytes& file) {
    replace_text(file, "outrider_plugin_register_v1", "outrider_plugin_register_v0");
  }).check_fails(ErrorCode::kPluginNoEntry, "outrider_plugin_register_v1");
}

TEST_CASE("a plugin whose entry function fails leaves nothing behind") {
  constexpr auto kCode = ErrorCode::kPluginRegisterFailed;
  {
    ScopedVariable behaviour("OUTRIDER_PROBE", "throw");
    Probe().check_fails(kCode, "failed in its entry function: the probe refuses");
  }
  {
    ScopedVariable behaviour("OUTRIDER_PROBE", "throw an int");
    Probe().check_fails(kCode, "an exception that is no std::exception");
  }
  ScopedVariable behaviour("OUTRIDER_PROBE", "null mode");
  Probe().check_fails(kCode, "a mode that is a null pointer");
}

TEST_CASE("a plugin must register the modes that its stamp names") {
  ScopedVariable behaviour("OUTRIDER_PROBE", "other mode");
  Probe().check_fails(ErrorCode::kPluginRegisterFailed,
                      "it registers [surprise], its stamp names [probe]");
}

TEST_CASE("a plugin with a malformed preset registers nothing") {
  ScopedVariable behaviour("OUTRIDER_PROBE", "bad preset");
  Probe().check_fails(ErrorCode::kPluginRegisterFailed, "mode 'probe': preset 'PROBE_CFG': ");
}

TEST_CASE("a second plugin with a mode that is taken registers nothing") {
  Probe first;
  first.loader.load({.name = "probe"});
  Probe second([](Bytes& file) { file = renamed(file, "rival", "0.3.0"); });
  PluginLoader loader({.search_path = {second.folder.path()}, .require_lock = false},
                      first.registry);
  check_error(
      ErrorCode::kPluginConflict,
      "plugin rival 0.3.0 cannot be used: mode 'probe' is already provided by plugin probe 0.1.0",
      [&] { loader.load({.name = "rival"}); });
  CHECK(first.registry.get("probe").plugin.name == "probe");
}

}  // namespace
}  // namespace outrider
