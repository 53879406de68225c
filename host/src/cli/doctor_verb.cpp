#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <torch/headeronly/version.h>

#include <cstdlib>

#include "cli/app.h"
#include "machine/cpu_arithmetic.h"
#include "outrider/error.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/sdk/stamp.h"
#include "outrider/version.h"

namespace outrider::cli {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// LibTorch's CUDA half is not linked: it is opened, and then asked.
Json device_facts() {
  if (!dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL)) {
    return {{"cuda", false}, {"why", "this LibTorch has no CUDA support"}};
  }
  if (!at::hasCUDA()) return {{"cuda", false}, {"why", "no CUDA device or driver was found"}};
  return {{"cuda", true}};
}

Json plugin_facts() {
  Json plugins = Json::array();
  for (const auto& listing : plugin_loader().list()) {
    Json plugin = {{"path", listing.path.string()}, {"problem", listing.problem}};
    if (listing.info) {
      plugin["name"] = listing.info->name;
      plugin["version"] = listing.info->version.to_string();
      if (listing.info->is_built_in) plugin["path"] = listing.info->location();
    }
    plugins.push_back(plugin);
  }
  return plugins;
}

// What will surprise the user later.
Json warnings(const Json& facts) {
  Json warnings = Json::array();
  if (facts["plugins"].empty()) {
    warnings.push_back("no plugin was found: install one with `outrider plugin add FILE`");
  }
  for (const auto& plugin : facts["plugins"]) {
    const auto problem = plugin["problem"].get<std::string>();
    if (!problem.empty()) warnings.push_back(problem);
  }
  return warnings;
}

Json examine() {
  Json facts = {{"outrider", std::string(version())},
                {"sdk_abi", kSdkAbi},
                {"libtorch", TORCH_VERSION},
                {"cpu", at::get_cpu_capability()},
                {"cpu_bfloat16", has_fast_bfloat16() ? "fast" : "slow"},
                {"threads", at::get_num_threads()},
                {"OMP_NUM_THREADS", environment("OMP_NUM_THREADS")},
                {"GOMP_SPINCOUNT", environment("GOMP_SPINCOUNT")},
                {"device", device_facts()},
                {"plugins", plugin_facts()}};
  facts["warnings"] = warnings(facts);
  return facts;
}

void print_facts(const Json& facts) {
  fmt::print("outrider {} (SDK ABI {}), LibTorch {}\n", facts["outrider"].get<std::string>(),
             facts["sdk_abi"].dump(), facts["libtorch"].get<std::string>());
  fmt::print("CPU {} with {} threads\n", facts["cpu"].get<std::string>(), facts["threads"].dump());
  fmt::print("bfloat16 on the CPU: {}\n",
             facts["cpu_bfloat16"] == "fast" ? "fast"
                                             : "slow, so bfloat16 models compute in float32 there");
  const auto& device = facts["device"];
  fmt::print("CUDA: {}\n", device["cuda"].get<bool>() ? "yes" : device["why"].get<std::string>());
  Table table({"PLUGIN", "VERSION", "PATH"});
  for (const auto& plugin : facts["plugins"]) {
    table.add({plugin.value("name", "?"), plugin.value("version", "?"),
               plugin["path"].get<std::string>()});
  }
  table.print();
  for (const auto& warning : facts["warnings"]) {
    fmt::print("warning: {}\n", warning.get<std::string>());
  }
  if (facts["warnings"].empty()) fmt::print("all is well\n");
}

}  // namespace

void add_doctor_verb(CLI::App& app, const GlobalOptions& global) {
  auto* verb = add_verb(app, "doctor", "Show what is installed and what is wrong with it",
                        "outrider doctor");
  verb->callback([&global] {
    use_plugins(global);
    const auto facts = examine();
    global.json ? print_json(facts) : print_facts(facts);
  });
}

}  // namespace outrider::cli
