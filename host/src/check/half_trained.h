#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "check/check.h"
#include "generate/session.h"
#include "outrider/decode/decoder.h"

namespace outrider::check {

constexpr int64_t kNewTokens = 24, kDraftTokens = 3;
constexpr double kClose = 1e-4;  // float32 sums in another order

constexpr const char* kNothingDrafted =
    "the draft has no Drafter: it is decoded plainly or with prompt lookup";

/// What is decoded: prompts of different lengths.
const std::vector<std::vector<int64_t>>& check_prompts();

/// A draft that says something of what the base goes on with after check_prompts(), so that some of
/// what it drafts is accepted and some is not. Null for one without a Drafter.
std::shared_ptr<CausalLM> half_trained(const ModeSubject& subject);

/// The draft that a check attached.
Draft& draft_of(CausalLM& model);
/// Throws what make_drafter() throws, but for a draft that has none: null.
std::unique_ptr<Drafter> drafter_of(CausalLM& model);
decode::Decoder drafted_decoder(CausalLM& model);
std::vector<std::vector<int64_t>> tokens_in(const decode::DecodedBatch& batch);

/// A few tokens in this shape.
DraftSettings settings_of(DraftShape shape);

}  // namespace outrider::check
