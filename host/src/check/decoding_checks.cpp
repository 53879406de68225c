#include "check/decoding_checks.h"

#include <fmt/format.h>

#include "check/half_trained.h"
#include "verify/path_checks.h"

namespace outrider::check {
namespace {

std::string check_train_serve(const ModeSubject& subject) {
  const auto model = half_trained(subject);
  if (!model) return kNothingDrafted;
  const auto ids = some_tokens(1, 24, model->config().vocab_size, 43);
  auto& draft = draft_of(*model);
  const auto result = verify::check_draft_paths("train_serve", *model, draft, draft, ids).front();
  if (result.outcome == verify::Outcome::kSkipped) throw Skip(result.detail);
  if (result.outcome == verify::Outcome::kDiffers) {
    throw Failure(result.cause + ": " + result.detail);
  }
  return fmt::format("{}: the Drafter says what loss() trains, within {:.1g}", result.detail,
                     *result.figure);
}

constexpr ModeCheck kDecodingChecks[] = {
    {"train_serve", "its Drafter says step by step what the loss trains", check_train_serve},
    {"drafting", "greedy decoding with chains and trees gives the tokens of plain decoding",
     check_drafting},
    {"sampling", "tokens are drawn from q, and decoded ones from the base's distribution",
     check_sampling},
    {"draft_order", "proposing twice, and committing without proposing, changes nothing",
     check_order},
    {"rollback", "rejected proposals leave no trace", check_rollback},
    {"keep", "the sequences that go on are those that were named, in their order", check_keep}};

}  // namespace

std::span<const ModeCheck> decoding_checks() { return kDecodingChecks; }

}  // namespace outrider::check
