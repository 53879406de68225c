#pragma once

namespace outrider {

/// Throws kPluginIncompatible unless the LibTorch in this process is the one that Outrider was
/// compiled for: plugins are matched with the latter.
void check_torch_runtime();

}  // namespace outrider
