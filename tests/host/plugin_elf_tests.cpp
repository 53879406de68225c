#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <typeinfo>

#include "outrider/host/plugin_file.h"
#include "outrider/json.h"
#include "outrider/text.h"
#include "outrider/version.h"
#include "plugin_fixtures.h"

namespace outrider {
namespace {

using namespace testing;

TEST_CASE("a built plugin says in its file what it is") {
  const auto facts = read_elf_facts(read_bytes(built_plugin("tiny")), "tiny");
  REQUIRE(facts.stamps.size() == 1);
  const auto& stamp = facts.stamps.front();
  CHECK(std::string(stamp.plugin_name) == "tiny");
  CHECK(std::string(stamp.plugin_version) == "0.1.0");
  CHECK(std::string(stamp.modes) == "tiny");
  CHECK(stamp.cuda_version == 0);
  CHECK(std::string(stamp.cuda_archs).empty());
  CHECK(stamp.stamp_size == sizeof(PluginStamp));
  CHECK(incompatibilities(stamp, host_stamp()).empty());
  CHECK(facts.is_nodelete);
  CHECK(facts.has_entry);
  CHECK_FALSE(facts.has_rpath);
  CHECK(std::ranges::count(facts.needed, "liboutrider_core.so") == 1);
  CHECK(dependency_problems(facts).empty());
}

TEST_CASE("the stamp of this program names the libraries it was compiled with") {
  const auto stamp = host_stamp();
  CHECK(std::string(typeid(Json).name()).find(stamp.json_abi) != std::string::npos);
  CHECK(std::string(stamp.json_abi).starts_with("json_abi"));
  CHECK(std::string(stamp.plugin_version) == version());
  CHECK(stamp.torch_version == (2u << 16 | 11u << 8));
  CHECK(std::string(stamp.stdlib) == "libstdc++");
  CHECK((stamp.flags & kStampCxx11Abi) != 0);
}

TEST_CASE("every reason why a plugin does not fit comes at once") {
  const auto host = host_stamp();
  auto plugin = host;
  plugin.sdk_abi += 1;
  plugin.torch_version = 2u << 16 | 10u << 8 | 1u;
  set_text(plugin.platform, "linux_riscv64_gnu");
  set_text(plugin.stdlib, "libc++");
  set_text(plugin.json_abi, "json_abi_diag_v3_12_0");
  plugin.flags ^= kStampCxx11Abi | kStampAddressSanitizer | kStampJsonDiagnostics;
  const auto problems = incompatibilities(plugin, host);
  REQUIRE(problems.size() == 8);
  const auto text = join(problems, "\n");
  const std::string host_abi = std::to_string(host.sdk_abi);
  for (const auto& part :
       {fmt::format("built for SDK ABI {}, this program for {}", host.sdk_abi + 1, host_abi),
        std::string("LibTorch 2.10.1, this program for 2.11.0"),
        fmt::format("the platform linux_riscv64_gnu, this program for {}", host.platform),
        std::string("the standard library libc++, this program for libstdc++"),
        fmt::format("JSON library's ABI json_abi_diag_v3_12_0, this program for {}", host.json_abi),
        std::string(
            "without the C++11 ABI of libstdc++ (_GLIBCXX_USE_CXX11_ABI), this program with"),
        std::string("AddressSanitizer"), std::string("JSON_DIAGNOSTICS")}) {
    CAPTURE(part);
    CHECK(text.find(part) != std::string::npos);
  }
}

TEST_CASE("CUDA code must be of LibTorch's CUDA version, unless there is none on one side") {
  auto host = host_stamp(), plugin = host;
  host.cuda_version = 13000;
  plugin.cuda_version = 12080;
  CHECK(join(incompatibilities(plugin, host), "") ==
        "the plugin was built for CUDA 12, this program's LibTorch for 13");
  plugin.cuda_version = 13010;
  CHECK(incompatibilities(plugin, host).empty());
  plugin.cuda_version = 0;
  CHECK(incompatibilities(plugin, host).empty());
  plugin.cuda_version = 12080;
  host.cuda_version = 0;
  CHECK(incompatibilities(plugin, host).empty());
}

TEST_CASE("a plugin may need LibTorch, core and the language's libraries alone") {
  ElfFacts facts;
  facts.is_nodelete = true;
  facts.needed = {"libtorch_cpu.so", "libcudart.so.13",     "libgomp-a34b3233.so.1",
                  "libc.so.6",       "liboutrider_core.so", "libc10_cuda.so"};
  CHECK(dependency_problems(facts).empty());
  facts.needed.push_back("libevil.so");
  facts.needed.push_back("/tmp/libcudart.so.13");
  facts.needed.push_back("libgomp/../x.so.1");
  facts.has_rpath = true;
  facts.is_nodelete = false;
  const auto problems = dependency_problems(facts);
  REQUIRE(problems.size() == 5);
  CHECK(problems[0] == "it needs the library libevil.so, which no plugin may bring in");
  CHECK(problems[1].find("/tmp/libcudart.so.13") != std::string::npos);
  CHECK(problems[2].find("libgomp/../x.so.1") != std::string::npos);
  CHECK(problems[3] == "it has a RPATH or RUNPATH");
  CHECK(problems[4] == "it was linked without -z nodelete");
}

}  // namespace
}  // namespace outrider
