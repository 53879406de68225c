#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "outrider/json.h"

namespace outrider::verify {

/// What a model folder's files say that decides how its draft computes: of the base's config.json
/// the rotary embedding, norms and masks, of each mode the recorded config and metadata, and hashes
/// of the tokenizer's files. Throws as reading these files does.
Json facts_of(const std::filesystem::path& folder);

/// Name → SHA-256 of the bytes of each tensor in a folder's weights that is wanted. Those in
/// `known` are not computed again.
Json tensor_hashes(const std::filesystem::path& folder,
                   const std::function<bool(const std::string&)>& is_wanted,
                   const Json& known = Json::object());

}  // namespace outrider::verify
