#include "plugins/compatibility.h"

#include <caffe2/core/macros.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>
#include <utility>

#include "outrider/error.h"
#include "outrider/host/plugin_file.h"
#include "outrider/sdk/build_stamp.h"
#include "outrider/text.h"
#include "outrider/version.h"

namespace outrider {
namespace {

using namespace std::string_view_literals;

/// The CUDA version that LibTorch was built for in the form of CUDA_VERSION; 0 without CUDA.
uint32_t torch_cuda_version() {
  constexpr std::pair<std::string_view, std::string_view> kBuild[] = CAFFE2_BUILD_STRINGS;
  for (const auto& [key, text] : kBuild) {
    if (key != "CUDA_VERSION") continue;
    uint32_t major = 0, minor = 0;
    const auto* end = text.data() + text.size();
    const auto* dot = std::from_chars(text.data(), end, major).ptr;
    if (dot != end) std::from_chars(dot + 1, end, minor);
    return major * 1000 + minor * 10;
  }
  return 0;
}

std::string flag_problem(const PluginStamp& plugin, uint32_t flag, std::string_view built_with) {
  return fmt::format("the plugin was built {} {}, this program {} it",
                     plugin.flags & flag ? "with" : "without", built_with,
                     plugin.flags & flag ? "without" : "with");
}

void compare_flags(const PluginStamp& plugin, const PluginStamp& host,
                   std::vector<std::string>& problems) {
  constexpr std::pair<uint32_t, std::string_view> kFlags[] = {
      {kStampCxx11Abi, "the C++11 ABI of libstdc++ (_GLIBCXX_USE_CXX11_ABI)"},
      {kStampGlibcxxDebug, "libstdc++'s debug mode (_GLIBCXX_DEBUG)"},
      {kStampAddressSanitizer, "AddressSanitizer"},
      {kStampThreadSanitizer, "ThreadSanitizer"},
      {kStampJsonDiagnostics, "JSON_DIAGNOSTICS"},
  };
  for (const auto& [flag, name] : kFlags) {
    if ((plugin.flags ^ host.flags) & flag) problems.push_back(flag_problem(plugin, flag, name));
  }
}

void compare_texts(std::string_view what, const char* plugin, const char* host,
                   std::vector<std::string>& problems) {
  if (std::string_view(plugin) == host) return;
  problems.push_back(fmt::format("the plugin was built for {} {}, this program for {}", what,
                                 printable(plugin), host));
}

bool matches(std::string_view library, std::string_view pattern) {
  const auto star = pattern.find('*');
  if (star == std::string_view::npos) return library == pattern;
  const auto prefix = pattern.substr(0, star), suffix = pattern.substr(star + 1);
  return library.size() >= prefix.size() + suffix.size() && library.starts_with(prefix) &&
         library.ends_with(suffix) && library.find('/') == std::string_view::npos;
}

bool is_allowed(const std::string& library) {
  constexpr std::array kAllowed = {"liboutrider_core.so"sv,
                                   "libtorch_cpu.so"sv,
                                   "libtorch_cuda.so"sv,
                                   "libtorch.so"sv,
                                   "libc10.so"sv,
                                   "libc10_cuda.so"sv,
                                   "libcudart.so.*"sv,
                                   "libstdc++.so.6"sv,
                                   "libgcc_s.so.1"sv,
                                   "libgomp*.so.1"sv,
                                   "libm.so.6"sv,
                                   "libc.so.6"sv,
                                   "libdl.so.2"sv,
                                   "libpthread.so.0"sv,
                                   "librt.so.1"sv,
                                   "ld-linux-x86-64.so.2"sv,
                                   "ld-linux-aarch64.so.1"sv};
  constexpr std::array kSanitizers = {"libasan.so.*"sv, "libubsan.so.*"sv, "libtsan.so.*"sv};
  const auto is_match = [&](std::string_view pattern) { return matches(library, pattern); };
  constexpr auto kSanitized = kStampAddressSanitizer | kStampThreadSanitizer;
  return std::any_of(kAllowed.begin(), kAllowed.end(), is_match) ||
         ((detail::build_flags() & kSanitized) != 0 &&
          std::any_of(kSanitizers.begin(), kSanitizers.end(), is_match));
}

}  // namespace

std::string packed_version_text(uint32_t packed) {
  return fmt::format("{}.{}.{}", packed >> 16, packed >> 8 & 0xff, packed & 0xff);
}

PluginStamp host_stamp() {
  return build_stamp("outrider", version(), {}, torch_cuda_version(), "");
}

std::vector<std::string> incompatibilities(const PluginStamp& plugin, const PluginStamp& host) {
  std::vector<std::string> problems;
  if (plugin.sdk_abi != host.sdk_abi) {
    problems.push_back(fmt::format("the plugin was built for SDK ABI {}, this program for {}",
                                   plugin.sdk_abi, host.sdk_abi));
  }
  if (plugin.torch_version != host.torch_version) {
    problems.push_back(fmt::format("the plugin was built for LibTorch {}, this program for {}",
                                   packed_version_text(plugin.torch_version),
                                   packed_version_text(host.torch_version)));
  }
  compare_texts("the platform", plugin.platform, host.platform, problems);
  compare_texts("the standard library", plugin.stdlib, host.stdlib, problems);
  compare_texts("the JSON library's ABI", plugin.json_abi, host.json_abi, problems);
  compare_flags(plugin, host, problems);
  const auto plugin_cuda = plugin.cuda_version / 1000, host_cuda = host.cuda_version / 1000;
  if (plugin_cuda != 0 && host_cuda != 0 && plugin_cuda != host_cuda) {
    problems.push_back(
        fmt::format("the plugin was built for CUDA {}, this program's LibTorch for {}", plugin_cuda,
                    host_cuda));
  }
  return problems;
}

std::vector<std::string> dependency_problems(const ElfFacts& facts) {
  std::vector<std::string> problems;
  for (const auto& library : facts.needed) {
    if (is_allowed(library)) continue;
    problems.push_back(
        fmt::format("it needs the library {}, which no plugin may bring in", printable(library)));
  }
  if (facts.has_rpath) problems.push_back("it has a RPATH or RUNPATH");
  if (!facts.is_nodelete) problems.push_back("it was linked without -z nodelete");
  return problems;
}

}  // namespace outrider
