#include "plugins/torch_runtime.h"

#include <fmt/format.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/version.h>

#include "outrider/error.h"
#include "plugins/compatibility.h"

namespace outrider {

void check_torch_runtime() {
  if (aoti_torch_abi_version() == TORCH_ABI_VERSION) return;
  const auto found = static_cast<uint32_t>(aoti_torch_abi_version() >> 40);
  throw Error(ErrorCode::kPluginIncompatible,
              fmt::format("this program was compiled for LibTorch " TORCH_VERSION
                          ", but the process has LibTorch {}",
                          packed_version_text(found)),
              "run it with LibTorch " TORCH_VERSION ", or build it against the one you have");
}

}  // namespace outrider
