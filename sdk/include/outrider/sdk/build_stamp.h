#pragma once

#include <torch/headeronly/version.h>

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "outrider/sdk/stamp.h"

#define OUTRIDER_STRINGIFY_EXPANDED(text) #text
#define OUTRIDER_STRINGIFY(text) OUTRIDER_STRINGIFY_EXPANDED(text)

namespace outrider {
namespace detail {

template <size_t N>
constexpr void write_stamp_text(char (&field)[N], std::string_view text) {
  if (text.size() >= N) throw "the text does not fit its field in the stamp";
  for (size_t i = 0; i < text.size(); ++i) field[i] = text[i];
}

constexpr bool has_address_sanitizer() {
#if defined(__SANITIZE_ADDRESS__)
  return true;
#elif defined(__has_feature)
  return __has_feature(address_sanitizer);
#else
  return false;
#endif
}

constexpr bool has_thread_sanitizer() {
#if defined(__SANITIZE_THREAD__)
  return true;
#elif defined(__has_feature)
  return __has_feature(thread_sanitizer);
#else
  return false;
#endif
}

constexpr uint32_t build_flags() {
  uint32_t flags = 0;
#if _GLIBCXX_USE_CXX11_ABI
  flags |= kStampCxx11Abi;
#endif
#ifdef _GLIBCXX_DEBUG
  flags |= kStampGlibcxxDebug;
#endif
#if JSON_DIAGNOSTICS
  flags |= kStampJsonDiagnostics;
#endif
  if (has_address_sanitizer()) flags |= kStampAddressSanitizer;
  if (has_thread_sanitizer()) flags |= kStampThreadSanitizer;
  return flags;
}

constexpr std::string_view build_platform() {
#if defined(__linux__) && defined(__GLIBC__) && defined(__x86_64__)
  return "linux_x86_64_gnu";
#elif defined(__linux__) && defined(__GLIBC__) && defined(__aarch64__)
  return "linux_aarch64_gnu";
#else
#error "Outrider's plugins exist for Linux with glibc on x86-64 and aarch64"
#endif
}

constexpr std::string_view build_stdlib() {
#ifdef _LIBCPP_VERSION
  return "libc++";
#else
  return "libstdc++";
#endif
}

/// As it occurs in mangled names: "json_abi_v3_11_2".
constexpr std::string_view build_json_abi() {
  std::string_view name = OUTRIDER_STRINGIFY(NLOHMANN_JSON_NAMESPACE);
  name.remove_prefix(name.rfind(':') + 1);
  return name;
}

}  // namespace detail

/// What a plugin registers, each kind as names separated by commas; see PluginStamp.
struct PluginProvides {
  std::string_view modes, bases, draft_models;
};

/// The stamp of a binary that is compiled by the calling file's compiler with its flags.
/// `cuda_version` is CUDA_VERSION, 0 without device code. A text that is too long for its field is
/// a compile error in a constant expression.
constexpr PluginStamp build_stamp(std::string_view name, std::string_view version,
                                  const PluginProvides& provides, uint32_t cuda_version,
                                  std::string_view cuda_archs) {
  PluginStamp stamp{};
  for (size_t i = 0; i < sizeof(stamp.magic); ++i) stamp.magic[i] = kStampMagic[i];
  stamp.stamp_size = sizeof(PluginStamp);
  stamp.sdk_abi = kSdkAbi;
  stamp.torch_version = TORCH_VERSION_MAJOR << 16 | TORCH_VERSION_MINOR << 8 | TORCH_VERSION_PATCH;
  stamp.cuda_version = cuda_version;
  stamp.flags = detail::build_flags();
  stamp.cxx_abi = __GXX_ABI_VERSION;
  detail::write_stamp_text(stamp.platform, detail::build_platform());
  detail::write_stamp_text(stamp.stdlib, detail::build_stdlib());
  detail::write_stamp_text(stamp.torch_build, TORCH_VERSION);
  detail::write_stamp_text(stamp.json_abi, detail::build_json_abi());
  detail::write_stamp_text(stamp.cuda_archs, cuda_archs);
  detail::write_stamp_text(stamp.plugin_name, name);
  detail::write_stamp_text(stamp.plugin_version, version);
  detail::write_stamp_text(stamp.modes, provides.modes);
  detail::write_stamp_text(stamp.bases, provides.bases);
  detail::write_stamp_text(stamp.draft_models, provides.draft_models);
  return stamp;
}

}  // namespace outrider
