#pragma once

#include <map>
#include <optional>
#include <string>

#include "outrider/checkpoint/safetensors.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/model/attached_draft.h"

namespace outrider {

/// What an exported file says of its draft beyond its own format: training settings, and choices
/// that the format has no key for. Other readers do not see it.
struct DraftRecord {
  static constexpr const char* kKey = "outrider_draft";

  Json config = Json::object(), metadata = Json::object();

  /// The record as the `__metadata__` of a safetensors file.
  static std::map<std::string, std::string> of(const AttachedDraft& draft) {
    const Json json = {{"config", draft.state.config}, {"metadata", draft.state.metadata}};
    return {{kKey, json.dump()}};
  }

  /// Nothing where the file has no record. Throws kInvalidFile for one that is none.
  static std::optional<DraftRecord> in(const SafetensorsFile& file) {
    const auto found = file.metadata().find(kKey);
    if (found == file.metadata().end()) return {};
    const auto origin = file.path().string() + " (" + kKey + ")";
    const auto json = parse_json(found->second, origin);
    const auto is_object = [&](const char* key) {
      return json.is_object() && json.contains(key) && json[key].is_object();
    };
    if (!is_object("config") || !is_object("metadata")) {
      throw Error(ErrorCode::kInvalidFile, origin + ": 'config' and 'metadata' must be objects",
                  "write the tensors again without that entry of __metadata__");
    }
    return DraftRecord{json["config"], json["metadata"]};
  }
};

}  // namespace outrider
