#include "verify/static_checks.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "outrider/host/checkpoint.h"
#include "outrider/text.h"
#include "verify/difference.h"
#include "verify/draft_vocabulary_of.h"
#include "verify/folder_facts.h"

namespace outrider::verify {
namespace {

Checks check_config(const Json& now, const Json& then) {
  Checks found;
  for (const char* part : {"base", "modes"}) {
    const auto differing = differences("config", now.value(part, Json()), then.value(part, Json()),
                                       "was written with");
    found.insert(found.end(), differing.begin(), differing.end());
  }
  return or_same(std::move(found), "config",
                 "config.json and outrider_state.json say what they said");
}

Checks check_tokenizer(const Json& now, const Json& then) {
  Checks found;
  for (const auto& [name, hash] : then.items()) {
    if (now.value(name, Json()) == hash) continue;
    const auto* what = now.contains(name) ? "is another file than" : "is missing, it was there";
    found.push_back({"tokenizer",
                     Outcome::kDiffers,
                     "tokenizer",
                     fmt::format("{} {} when the folder was written", printable(name), what),
                     {}});
  }
  return or_same(std::move(found), "tokenizer", fmt::format("{} files", then.size()));
}

// Of recorded hashes, the names of tensors that have others now.
Checks changed_tensors(const std::filesystem::path& folder, const Json& then) {
  const auto now =
      tensor_hashes(folder, [&](const std::string& name) { return then.contains(name); });
  Checks found;
  for (const auto& [name, hash] : then.items()) {
    if (now.value(name, Json()) == hash) continue;
    const auto cause = cause_of(name);
    found.push_back({"tensors",
                     Outcome::kDiffers,
                     cause.empty() ? "weights" : cause,
                     fmt::format("{} {}", printable(name),
                                 now.contains(name) ? "has other values than when it was written"
                                                    : "is missing"),
                     {}});
  }
  return found;
}

Checks check_draft_tensors(const std::filesystem::path& folder, const std::string& mode,
                           const Json& then, std::set<std::string>& retrained) {
  auto found = changed_tensors(folder, then);
  if (2 * found.size() <= then.size()) {
    return or_same(std::move(found), "tensors", fmt::format("{} of {}", then.size(), mode));
  }
  retrained.insert(mode);
  return {{"tensors",
           Outcome::kSkipped,
           "",
           fmt::format("{} of {} tensors of {} have other values than when the folder was written: "
                       "it was trained elsewhere since",
                       found.size(), then.size(), mode),
           {}}};
}

}  // namespace

Checks check_recorded(const std::filesystem::path& folder, const Probe& probe,
                      std::set<std::string>& retrained) {
  const auto facts = facts_of(folder);
  auto checks = check_config(facts, probe.facts);
  append(checks, check_tokenizer(facts["tokenizer"], probe.facts["tokenizer"]));
  append(checks, or_same(changed_tensors(folder, probe.base), "tensors",
                         fmt::format("{} of the base", probe.base.size())));
  for (const auto& [mode, tensors] : probe.drafts.items()) {
    append(checks, check_draft_tensors(folder, mode, tensors, retrained));
  }
  return checks;
}

Checks check_vocabulary_map(const CausalLM& base, const AttachedDraft& attached) {
  constexpr const char* kName = "vocabulary map";
  const auto ids = draft_vocabulary_of(*attached.draft);
  if (!ids.defined()) return {{kName, Outcome::kSame, "", "the base's whole vocabulary", {}}};
  const auto differs = [&](const std::string& what) -> Checks {
    return {{kName, Outcome::kDiffers, kName, "d2t " + what, {}}};
  };
  const auto size = base.config().vocab_size;
  const auto outside = (ids.lt(0) | ids.ge(size)).sum().item<int64_t>();
  if (outside > 0) {
    return differs(
        fmt::format("names {} tokens outside the base's vocabulary of {}", outside, size));
  }
  if (ids.size(0) > 1 && ids.diff().le(0).any().item<bool>()) {
    return differs("names tokens twice, or not in ascending order");
  }
  if (ids.size(0) < size && ids.equal(at::arange(ids.size(0), ids.options()))) {
    return differs(fmt::format("is zero: the {} tokens were never chosen", ids.size(0)));
  }
  return {{kName, Outcome::kSame, "", fmt::format("{} of {} tokens", ids.size(0), size), {}}};
}

Checks check_layers_read(const CausalLM& base, const AttachedDraft& attached) {
  const auto layers = attached.draft->hidden_states_needed().layer_outputs;
  const auto count = base.config().num_hidden_layers;
  const bool fit =
      std::ranges::all_of(layers, [&](int64_t layer) { return layer >= 0 && layer < count; });
  const auto detail =
      fmt::format("{} of {} layers: {}", layers.size(), count, fmt::join(layers, ", "));
  return {{"layers read",
           fit ? Outcome::kSame : Outcome::kDiffers,
           fit ? "" : "aux layers",
           detail,
           {}}};
}

}  // namespace outrider::verify
