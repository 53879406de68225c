#pragma once

#include <cstdint>

namespace outrider {

/// The ABI of the headers in core and sdk. Raise it with every incompatible change of theirs.
inline constexpr uint32_t kSdkAbi = 4;

inline constexpr char kStampMagic[8] = {'O', 'U', 'T', 'R', 'I', 'D', 'R', '\0'};
inline constexpr char kStampNoteName[] = "Outrider";
inline constexpr uint32_t kStampNoteType = 1;
inline constexpr char kEntrySymbol[] = "outrider_plugin_register_v1";

enum StampFlag : uint32_t {
  kStampCxx11Abi = 1u << 0,
  kStampGlibcxxDebug = 1u << 1,
  kStampAddressSanitizer = 1u << 2,
  kStampThreadSanitizer = 1u << 3,
  kStampJsonDiagnostics = 1u << 4,
};

/// What a plugin binary was built for, in an ELF note, so that the host can decide before any code
/// of the plugin runs. Append only: never reorder or resize a field. Texts are NUL-terminated.
struct PluginStamp {
  char magic[8];
  uint32_t stamp_size;  // sizeof of the writer's struct: an old host reads a newer stamp's prefix
  uint32_t sdk_abi;
  uint32_t torch_version;   // major<<16 | minor<<8 | patch
  uint32_t cuda_version;    // CUDA_VERSION, 0 = no device code
  uint32_t flags;           // StampFlag
  uint32_t cxx_abi;         // __GXX_ABI_VERSION, information only
  char platform[32];        // "linux_x86_64_gnu"
  char stdlib[16];          // "libstdc++" | "libc++"
  char torch_build[48];     // TORCH_VERSION, for messages
  char json_abi[48];        // nlohmann_json's ABI namespace, "json_abi_v3_11_2"
  char cuda_archs[64];      // "90a"
  char plugin_name[64];     // [a-z][a-z0-9_]{0,62}
  char plugin_version[32];  // semver
  char modes[256];          // names, separated by commas
  char bases[256];          // architectures, separated by commas
  char draft_models[256];   // MODE/ARCHITECTURE, separated by commas
};

}  // namespace outrider
