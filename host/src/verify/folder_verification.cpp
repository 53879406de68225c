#include "verify/folder_verification.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <set>

#include "data/batches.h"
#include "first_line.h"
#include "outrider/error.h"
#include "verify/export_checks.h"
#include "verify/path_checks.h"
#include "verify/probe.h"
#include "verify/probe_outputs.h"
#include "verify/state_checks.h"
#include "verify/static_checks.h"

namespace outrider::verify {
namespace {

constexpr int64_t kFewestTokens = 8, kMostTokens = 128;

// Fixed tokens, no two alike in small vocabularies before all were there.
at::Tensor tokens_of(const VerifyOptions& options, const CausalLM& model) {
  const auto vocabulary = model.config().vocab_size;
  auto ids = options.tokens;
  if (ids.empty()) {
    for (int64_t i = 1; i <= options.random_tokens; ++i)
      ids.push_back(i * 40503 % 65521 % vocabulary);
  }
  ids.resize(std::min<size_t>(ids.size(), kMostTokens));
  if (static_cast<int64_t>(ids.size()) < kFewestTokens) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} tokens are too few to compare positions on", ids.size()),
                fmt::format("give a row of at least {} tokens", kFewestTokens));
  }
  for (const int64_t id : ids) {
    if (id >= 0 && id < vocabulary) continue;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("token {} is outside the vocabulary of {}", id, vocabulary));
  }
  return at::tensor(ids, at::kLong).unsqueeze(0).to(model.device());
}

// Of what was asked for, or a file that is none of what it should be: no comparison has failed.
bool is_about_request(ErrorCode code) {
  constexpr ErrorCode kCodes[] = {ErrorCode::kInvalidArgument, ErrorCode::kUnknownFormat,
                                  ErrorCode::kFileNotFound, ErrorCode::kInvalidFile,
                                  ErrorCode::kNotConverted};
  return std::ranges::find(kCodes, code) != std::end(kCodes);
}

/// Runs checks, of which each one's failure to run is a result too.
class Verification {
 public:
  explicit Verification(const VerifyOptions& options)
      : options_(options), probe_(Probe::read(options.folder)) {}

  Checks run() {
    check_files();
    if (!load()) return checks_;
    require_drafts(*model_);
    const auto ids = tokens_of(options_, *model_);
    const bool has_layers = !model_->has_edit(BaseEdit::kDropDecoderLayers);
    if (has_layers) guarded("base decode", [&] { return check_base_paths(*model_, ids); });
    for (const auto& attached : model_->speculative_state()) check_draft(attached, ids, has_layers);
    check_recorded_outputs();
    if (!options_.exported.empty()) {
      guarded("export", [&] {
        return check_export({options_.exported, options_.format}, *model_, ids);
      });
    }
    return checks_;
  }

 private:
  void check_files() {
    if (probe_) {
      add(check_recorded(options_.folder, *probe_, retrained_));
    } else {
      add({{"record", Outcome::kSkipped, "", fmt::format("no {}", kProbeFile), {}}});
    }
    if (!has_recorded_outputs()) add(check_state(options_.folder));
  }

  bool has_recorded_outputs() const { return probe_ && probe_->outputs.is_object(); }

  void add(const Checks& more) { append(checks_, more); }
  bool differs() const { return !causes_in(checks_).empty(); }

  /// A folder whose files were found to be others may be one that cannot be loaded.
  bool load() {
    try {
      model_ = options_.load();
      model_->eval();
      return true;
    } catch (const Error& error) {
      if (!differs()) throw;
      add({{"load", Outcome::kDiffers, causes_in(checks_).front(), first_line(error.what()), {}}});
      return false;
    }
  }

  void guarded(const std::string& name, const std::function<Checks()>& check) {
    try {
      add(check());
    } catch (const Error& error) {
      if (is_about_request(error.code())) throw;
      if (error.code() == ErrorCode::kUnsupported) {
        return add({{name, Outcome::kSkipped, "", first_line(error.what()), {}}});
      }
      add({{name, Outcome::kDiffers, cause_so_far(), first_line(error.what()), {}}});
    } catch (const c10::Error& error) {
      add({{name, Outcome::kDiffers, cause_so_far(), error.what_without_backtrace(), {}}});
    } catch (const std::exception& error) {
      add({{name, Outcome::kDiffers, cause_so_far(), first_line(error.what()), {}}});
    }
  }

  std::string cause_so_far() const {
    const auto causes = causes_in(checks_);
    return causes.empty() ? "weights" : causes.front();
  }

  void check_draft(const AttachedDraft& attached, const at::Tensor& ids, bool has_layers) {
    guarded("layers read", [&] { return check_layers_read(*model_, attached); });
    guarded("vocabulary map", [&] { return check_vocabulary_map(*model_, attached); });
    const auto name = attached.state.mode + " decode";
    if (!has_layers) {
      return add({{name, Outcome::kSkipped, "", "the base has no decoder layers here", {}}});
    }
    guarded(name, [&] {
      return check_draft_paths(name, *model_, *attached.draft, *attached.draft, ids);
    });
  }

  /// What differs already has other outputs: they are its effect and no cause of their own.
  void check_recorded_outputs() {
    if (!probe_) return;
    if (!has_recorded_outputs()) {
      return add(
          {{"outputs", Outcome::kSkipped, "", "not recorded: " + probe_->without_outputs, {}}});
    }
    const auto known = causes_in(checks_);
    guarded("outputs", [&] {
      auto found = check_outputs(*model_, probe_->outputs, retrained_);
      if (!known.empty()) found.front().cause = found.front().cause.empty() ? "" : known.front();
      return found;
    });
  }

  const VerifyOptions& options_;
  std::optional<Probe> probe_;
  std::set<std::string> retrained_;
  std::shared_ptr<CausalLM> model_;
  Checks checks_;
};

}  // namespace

Checks verify_folder(const VerifyOptions& options) { return Verification(options).run(); }

}  // namespace outrider::verify
