#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "draft/eagle_draft.h"
#include "outrider/sdk/foreign_format.h"

namespace outrider::eagle {

/// The EAGLE draft of a context. Throws kUnsupported for one that another plugin brought.
const EagleDraft& draft_of(const ExportContext& context, const std::string& format);

/// The draft's tensors under Outrider's names, and a head in any case: a draft without one is
/// served with a copy of the base's.
TensorMap draft_tensors(const ExportContext& context, const EagleDraft& draft);

/// The same tensors with another prefix for those of "layers.0.".
TensorMap with_first_layer(const TensorMap& tensors, const std::string& prefix);

/// The keys of the decoder that all formats write alike, without those of the rotary embedding.
Json decoder_keys(const ExportContext& context, const EagleDraft& draft);

/// Collects why a format cannot hold a draft, so that one error names every reason.
class Refusals {
 public:
  explicit Refusals(std::string format) : format_(std::move(format)) {}
  Refusals& when(bool condition, const std::string& reason);
  /// Throws kUnsupported if there are reasons.
  void finish() const;

 private:
  std::string format_;
  std::vector<std::string> reasons_;
};

/// What no serving engine computes: other variants than EAGLE-3, parallel heads, a missing norm.
void refuse_variants(Refusals& refusals, const DraftSettings& settings);

/// Another number of layers read than three, which is what most readers give a draft.
void refuse_other_than_three_layers(Refusals& refusals, const DraftSettings& settings);

/// What speculators' layout alone has a key for: a normed residual, and, where the draft is as wide
/// as its base, embeddings of its own.
void refuse_speculators_settings(Refusals& refusals, const Architecture& architecture);

/// "target_hidden_size", where the draft has another width than the base.
Json target_width(const Architecture& architecture);

/// What formats with one layer without biases cannot hold.
void refuse_beyond_one_layer(Refusals& refusals, const Architecture& architecture);

/// Rotary embeddings that engines compute differently from training.
void refuse_engine_rope(Refusals& refusals, const Json& meaning);

/// Throws kUnsupported for a draft that was trained with a reference's numerics, unless the user
/// allows the mismatch.
void refuse_reference_numerics(const ExportContext& context, const EagleDraft& draft,
                               const std::string& format);

/// Writes config.json and model.safetensors, the latter with a DraftRecord.
void write_draft(const ExportContext& context, const TensorMap& tensors, const Json& config,
                 const std::filesystem::path& folder);

}  // namespace outrider::eagle
