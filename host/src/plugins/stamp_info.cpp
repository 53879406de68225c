#include "plugins/stamp_info.h"

#include <fmt/format.h>

#include "outrider/error.h"
#include "outrider/host/plugin_file.h"
#include "outrider/text.h"
#include "plugins/stamp_text.h"

namespace outrider {

void describe(const PluginStamp& stamp, PluginInfo& info) {
  info.name = stamp.plugin_name;
  info.version = SemVer::parse(stamp.plugin_version);
  info.modes = split_names(stamp.modes);
  info.bases = split_names(stamp.bases);
  info.draft_models = split_names(stamp.draft_models);
  info.torch_build = stamp.torch_build;
  info.cuda_archs = stamp.cuda_archs;
}

void check_compatibility(const PluginStamp& stamp, const PluginInfo& info) {
  const auto host = host_stamp();
  const auto problems = incompatibilities(stamp, host);
  if (problems.empty()) return;
  throw Error(
      ErrorCode::kPluginIncompatible,
      fmt::format("plugin {}: {} {} cannot run in this program: {}", info.location(), info.name,
                  info.version.to_string(), join(problems, "; ")),
      fmt::format("rebuild the plugin against this Outrider ({}, SDK ABI {}) and LibTorch {}",
                  host.plugin_version, host.sdk_abi, host.torch_build));
}

}  // namespace outrider
