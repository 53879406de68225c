// A program that the plugin "tiny" is linked into.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <doctest/doctest.h>

#include "outrider/host/plugin_loader.h"
#include "outrider/host/plugin_lock.h"
#include "outrider/host/plugin_verification.h"
#include "outrider/host/sha256.h"
#include "plugin_fixtures.h"

namespace outrider {
namespace {

using namespace testing;

PluginPolicy built_in(const std::vector<std::filesystem::path>& folders = {}) {
  return {.search_path = folders, .require_lock = true, .built_in = static_plugins()};
}

/// A folder with the file of a plugin, locked.
struct Folder {
  explicit Folder(const std::string& version, const std::string& name = "tiny") {
    write_bytes(folder / "copy.outrider.so",
                renamed(read_bytes(built_plugin("tiny")), name, version));
    PluginLock::of_folder(folder.path()).write(folder.path());
  }

  PrivateFolder folder;
  SpeculativeDecodingModeRegistry registry;
  PluginLoader loader{built_in({folder.path()}), registry};
};

TEST_CASE("a built-in plugin is listed first, from its stamp, without path and hash") {
  Folder other("0.1.0", "other");
  const auto listings = other.loader.list();
  REQUIRE(listings.size() == 2);
  CHECK(listings[0].is_usable());
  CHECK(listings[0].path.empty());
  const auto& plugin = *listings[0].info;
  CHECK(plugin.is_built_in);
  CHECK(plugin.name == "tiny");
  CHECK(plugin.version.to_string() == "0.1.0");
  CHECK(plugin.modes == std::vector<std::string>{"tiny"});
  CHECK(plugin.torch_build == "2.11.0");
  CHECK(plugin.sha256.empty());
  CHECK(plugin.location() == "(built in)");
  CHECK(plugin.reference().range == "^0.1");
  CHECK(listings[1].info->name == "other");
  CHECK_FALSE(listings[1].info->is_built_in);
}

TEST_CASE("it is resolved by name and range; a hash that a checkpoint pins is not its own") {
  SpeculativeDecodingModeRegistry registry;
  PluginLoader loader(built_in(), registry);
  CHECK(loader.resolve({.name = "tiny", .range = "^0.1"}).is_built_in);
  CHECK(loader.resolve({.name = "tiny", .range = "^0.1", .sha256 = std::string(64, '0')})
            .is_built_in);
  check_error(ErrorCode::kPluginNotFound, "installed are tiny 0.1.0, built into this program",
              [&] { loader.resolve({.name = "tiny", .range = "^0.2"}); });
}

TEST_CASE("a file of the same name is never loaded beside it, whatever its version or hash") {
  Folder copy("0.1.7");
  CHECK(copy.loader.resolve({.name = "tiny"}).is_built_in);
  const auto hash = sha256_of_file(copy.folder / "copy.outrider.so");
  CHECK(copy.loader.resolve({.name = "tiny", .range = "^0.1", .sha256 = hash}).is_built_in);
  const auto listing = copy.loader.list().back();
  CHECK(listing.problem_code == ErrorCode::kPluginConflict);
  Folder newer("0.2.0");
  const auto load = [&] { newer.loader.load({.name = "tiny", .range = "^0.2"}); };
  check_error(ErrorCode::kPluginConflict, "plugin tiny 0.2.0 (", load);
  check_error(ErrorCode::kPluginConflict, "this program has the plugin 'tiny' built in", load);
  CHECK(verify_plugins(built_in({newer.folder.path()})).back().problem_code ==
        ErrorCode::kPluginConflict);
}

TEST_CASE("it loads through the same entry function, and its mode converts") {
  SpeculativeDecodingModeRegistry registry;
  PluginLoader loader(built_in(), registry);
  const auto& mode = loader.load_mode("tiny");
  CHECK(mode.plugin.is_built_in);
  CHECK(&loader.load_mode("tiny") == &mode);
  CHECK(loader.load({.name = "tiny", .range = "^0.1"}).is_built_in);
  const ModelConfig config;
  const BaseInfo base{config, "LlamaForCausalLM", at::kFloat, at::kCPU, 1, 3, 8};
  const auto conversion =
      mode.descriptor->convert(base, mode.descriptor->config_schema().resolve({{"rows", 4}}));
  CHECK(conversion.attribute == "tiny_module");
  CHECK(at::equal(conversion.draft->named_parameters()["weight"], at::ones({4, 3})));
  const auto twice = c10::Dispatcher::singleton()
                         .findSchemaOrThrow("outrider_tiny::twice", "")
                         .typed<at::Tensor(const at::Tensor&)>();
  CHECK(at::equal(twice.call(at::ones({3})), at::full({3}, 2.0)));
}

TEST_CASE("a stamp of another SDK is refused: the program may meet another host library") {
  auto plugins = static_plugins();
  REQUIRE(plugins.size() == 1);
  plugins[0].stamp.sdk_abi += 1;
  SpeculativeDecodingModeRegistry registry;
  PluginLoader loader({.search_path = {}, .require_lock = true, .built_in = plugins}, registry);
  check_error(ErrorCode::kPluginIncompatible, "plugin (built in): tiny 0.1.0 cannot run",
              [&] { loader.load_mode("tiny"); });
  CHECK(registry.names().empty());
}

}  // namespace
}  // namespace outrider
