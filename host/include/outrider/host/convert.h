#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "outrider/host/plugin_loader.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// What to attach: a mode name, a list of names or (name, config) pairs, or a preset dictionary
/// {"algorithm": NAME, "config": {…}}. An empty name or list changes nothing.
struct ModeRequest {
  struct Item {
    std::string mode;
    Json config = Json::object();
  };
  std::vector<Item> items;

  ModeRequest(const char* mode) : ModeRequest(std::string(mode)) {}
  OUTRIDER_API ModeRequest(const std::string& mode);
  ModeRequest(std::vector<Item> list) : items(std::move(list)) {}
  /// A JSON string, list or preset dictionary. Throws kInvalidArgument naming what is accepted.
  OUTRIDER_API static ModeRequest from_json(const Json& mode);
};

struct ConvertOptions {
  uint64_t seed = 0;
  std::optional<std::string> reference_numerics;  // "0.47" or "0.42"
  at::Tensor draft_vocabulary;                    // base token ids [Vd], increasing
  /// Called with what the user should know: settings that have no effect here.
  std::function<void(const std::string&)> on_note;
};

namespace speculative {

/// Attaches algorithms to a model, which is changed in place and returned. Everything or nothing:
/// after an exception the model is as it was. On a model of the meta device drafts have no values,
/// and take no memory. Throws kUnknownMode, kInvalidConfig, kAlreadyConverted.
OUTRIDER_API CausalLM& convert(CausalLM& model, const ModeRequest& mode,
                               const ConvertOptions& options = {});

/// What convert() would attach and record.
struct PlannedMode {
  Json config, metadata;
  std::vector<std::string> notes;
};

/// Throws what convert() would throw, and otherwise says what it would do. On a model of the meta
/// device drafts have no values, and take no memory.
OUTRIDER_API std::vector<PlannedMode> plan(const CausalLM& model, const ModeRequest& mode,
                                           const ConvertOptions& options = {});

}  // namespace speculative
}  // namespace outrider
