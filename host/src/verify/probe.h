#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "outrider/api.h"
#include "outrider/json.h"
#include "outrider/model/causal_lm.h"

namespace outrider::verify {

/// How a draft was when its folder was written, in kProbeFile beside it. Only verifying reads it.
struct Probe {
  Json facts;    // facts_of() the folder
  Json base;     // hashes of the base's tensors that belong to no layer: embedding, norm, head
  Json drafts;   // mode → hashes of its draft's tensors
  Json outputs;  // outputs_of() the model; null where they were not computed, for the reason:
  std::string without_outputs;

  /// Nothing where the folder has none. Throws kInvalidFile for a file that is no probe.
  OUTRIDER_API static std::optional<Probe> read(const std::filesystem::path& folder);
};

struct ProbeOptions {
  std::string without_outputs;        // not empty: why the base is not to be run
  Json base_hashes = Json::object();  // of tensors of the base that are known to be as they were
};

/// Writes the probe of a folder whose other files are all there, and returns the hashes of the
/// base's tensors in it. Throws kWriteFailed.
OUTRIDER_API Json write_probe(CausalLM& model, const std::filesystem::path& folder,
                              const ProbeOptions& options = {});

/// SaveOptions::complete for a folder that is written without running its model.
OUTRIDER_API std::function<void(const std::filesystem::path&)> probe_without_outputs(
    CausalLM& model);

}  // namespace outrider::verify
