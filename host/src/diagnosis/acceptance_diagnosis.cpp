#include "diagnosis/acceptance_diagnosis.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "data/batches.h"
#include "generate/measurement.h"
#include "generate/session.h"
#include "outrider/text.h"
#include "report/history.h"
#include "trainer/draft_meter.h"
#include "trainer/random_state.h"
#include "verify/draft_vocabulary_of.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

constexpr double kMatters = 0.05;  // share of the tokens per pass

using Answers = std::vector<std::vector<int64_t>>;

/// Teacher-forced results of the first draft on the answers, behind their prompts.
std::optional<DraftResult> forced_result(CausalLM& model,
                                         const std::vector<AnsweredPrompt>& prompts,
                                         const Answers& answers) {
  const at::NoGradGuard no_grad;
  const DraftTrainingScope training_mode(model);
  const RandomStateScope same_draws(model.device(), /*seed=*/0);
  DraftMeter meter(mode_names(model));
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (answers[i].size() < 3) continue;  // with nothing to draft
    auto row = prompts[i].prompt;
    row.insert(row.end(), answers[i].begin(), answers[i].end());
    ForwardInput input;
    input.batch.input_ids = at::tensor(row, at::kLong).unsqueeze(0).to(model.device());
    input.batch.attention_mask = at::ones_like(input.batch.input_ids);
    input.batch.loss_mask = at::zeros_like(input.batch.input_ids);
    input.batch.loss_mask.slice(1, static_cast<int64_t>(prompts[i].prompt.size())).fill_(1);
    input.batch.measure_acceptance = true;
    input.right_padded = true;
    meter.add(model.forward(input).draft_losses);
  }
  const auto results = meter.report();
  return results.empty() ? std::nullopt : std::optional(results.front());
}

std::vector<double> accuracies_of(const DraftResult& result) {
  std::vector<double> accuracies;
  for (const auto& step : result.steps) accuracies.push_back(step.accuracy);
  return accuracies;
}

/// With every covered token drafted rightly: tokens per pass over these answers.
double bound_of(const Answers& answers, const std::set<int64_t>& vocabulary, int64_t drafted) {
  double tokens = 0.0, passes = 0.0;
  for (const auto& answer : answers) {
    for (size_t i = 0; i < answer.size(); ++passes) {
      size_t taken = 0;
      while (taken < static_cast<size_t>(drafted) && i + taken < answer.size() &&
             vocabulary.contains(answer[i + taken])) {
        ++taken;
      }
      const auto emitted = std::min(answer.size() - i, taken + 1);
      tokens += static_cast<double>(emitted);
      i += emitted;
    }
  }
  return passes > 0.0 ? tokens / passes : 1.0;
}

/// The findings about one model, and what they come to.
class Diagnosis {
 public:
  Diagnosis(CausalLM& model, const DiagnosisOptions& options)
      : model_(model), options_(options), drafted_(options.decode.draft.max_tokens) {}

  AcceptanceDiagnosis run(const std::vector<std::string>& mismatches) {
    measure_decoding();
    add_mismatch(mismatches);
    add_coverage();
    add_own_against_given();
    add_training();
    result_.most_likely_cause = verdict();
    return std::move(result_);
  }

 private:
  void measure_decoding() {
    MeasuredTokens prompts;
    for (const auto& prompt : options_.prompts) prompts.push_back(prompt.prompt);
    const auto measured = measure(decoder_of(model_, DrafterKind::kModel), prompts, options_.decode,
                                  options_.batch_size);
    result_.acceptance_length = acceptance_length(measured.answers);
    for (const auto& answer : measured.answers) own_.push_back(answer.tokens);
    by_position_ = acceptance_by_position(measured.answers);
    own_result_ = forced_result(model_, options_.prompts, own_);
  }

  void add(const std::string& name, Json figures, const std::string& meaning,
           std::optional<double> loss = {}) {
    result_.findings.push_back({name, std::move(figures), meaning, loss});
  }

  /// What the accuracies promise for as many tokens as are drafted.
  double expected() const {
    auto accuracies = accuracies_of(*own_result_);
    accuracies.resize(std::min(accuracies.size(), static_cast<size_t>(drafted_)));
    return expected_acceptance_length(accuracies);
  }

  void add_mismatch(const std::vector<std::string>& causes) {
    Json figures = {{"causes", causes},
                    {"acceptance_length", result_.acceptance_length},
                    {"acceptance_by_position", by_position_}};
    if (own_result_) figures["expected_acceptance_length"] = expected();
    if (!causes.empty()) {
      return add(
          "train-serve mismatch", figures,
          "verify finds that it is decoded otherwise than it was trained: " + join(causes, ", "),
          1.0);
    }
    const auto text =
        own_result_ ? fmt::format(", where its accuracies on this text promise {:.2f}", expected())
                    : "";
    add("train-serve mismatch", figures,
        fmt::format("verify finds none; decoding gives {:.2f} tokens per pass{}",
                    result_.acceptance_length, text),
        0.0);
  }

  void add_coverage() {
    const auto ids = verify::draft_vocabulary_of(*model_.speculative_state().front().draft);
    if (!ids.defined()) {
      return add("draft vocabulary", {{"coverage", 1.0}}, "the base's whole vocabulary", 0.0);
    }
    const auto values = ids.to(at::kCPU).contiguous();
    const auto* first = values.const_data_ptr<int64_t>();
    const std::set<int64_t> known(first, first + values.numel());
    double tokens = 0.0, covered = 0.0;
    for (const auto& answer : own_) {
      tokens += static_cast<double>(answer.size());
      covered += static_cast<double>(
          std::ranges::count_if(answer, [&](int64_t id) { return known.contains(id); }));
    }
    const double share = tokens > 0.0 ? covered / tokens : 1.0;
    const double bound = bound_of(own_, known, drafted_);
    const double most = static_cast<double>(drafted_ + 1);
    add("draft vocabulary", {{"size", known.size()}, {"coverage", share}, {"bound", bound}},
        fmt::format(
            "{:.1f} % of what the base says is among its {} tokens: at most {:.2f} of {:.0f} "
            "tokens per pass, were all of them drafted rightly",
            100 * share, known.size(), bound, most),
        std::max(0.0, 1.0 - bound / most));
  }

  void add_own_against_given() {
    Answers given;
    std::vector<AnsweredPrompt> answered;
    for (const auto& prompt : options_.prompts) {
      if (prompt.answer.empty()) continue;
      answered.push_back(prompt);
      given.push_back(prompt.answer);
    }
    constexpr const char* kName = "off-policy data";
    if (!own_result_) return add(kName, Json::object(), "the answers are too short to measure on");
    Json figures = {{"own_accuracy", accuracies_of(*own_result_)}};
    if (given.empty()) {
      return add(kName, figures,
                 "the prompts have no answers to compare with: give `messages` that end with one");
    }
    const auto theirs = forced_result(model_, answered, given);
    if (!theirs) return add(kName, figures, "the given answers are too short to measure on");
    figures["given_accuracy"] = accuracies_of(*theirs);
    const double ours = own_result_->steps.front().accuracy, other = theirs->steps.front().accuracy;
    const double promised = theirs->expected_acceptance_length;
    const double loss =
        promised > 0 ? 1.0 - own_result_->expected_acceptance_length / promised : 0.0;
    add(kName, figures,
        fmt::format(
            "its first step is right for {:.1f} % of the base's own text and {:.1f} % of the "
            "given one{}",
            100 * ours, 100 * other,
            loss > kMatters ? ": it has learned another text than it drafts; train it on "
                              "answers of the base"
                            : ""),
        std::max(0.0, loss));
  }

  void add_training() {
    constexpr const char* kName = "too short training";
    const auto file = options_.folder.parent_path() / "metrics.jsonl";
    if (!fs::exists(file)) {
      return add(kName, Json::object(),
                 "no metrics.jsonl beside the folder: its training is not known");
    }
    const auto history = report::RunHistory::read(file);
    if (history.training.empty() || history.training.front().acceptance.points.size() < 4) {
      return add(kName, Json::object(), "metrics.jsonl has too few lines to tell");
    }
    const auto& points = history.training.front().acceptance.points;
    const auto mean = [&](size_t begin, size_t end) {
      double sum = 0.0;
      for (size_t i = begin; i < end; ++i) sum += points[i].value;
      return sum / static_cast<double>(end - begin);
    };
    const size_t quarter = points.size() / 4;
    const double end = mean(points.size() - quarter, points.size());
    const double before = mean(points.size() - 2 * quarter, points.size() - quarter);
    const double gain = end - before;
    add(kName,
        {{"steps", points.back().step},
         {"expected_acceptance_length", end},
         {"gain_of_last_quarter", gain}},
        fmt::format(
            "after {} steps it promised {:.2f} tokens per pass, {:+.2f} in the last quarter of "
            "the run{}",
            points.back().step, end, gain, gain > kMatters * end ? ": it was still learning" : ""),
        std::max(0.0, gain / end));
  }

  std::string verdict() const {
    const AcceptanceFinding* worst = nullptr;
    for (const auto& finding : result_.findings) {
      if (finding.loss && (!worst || *finding.loss > *worst->loss)) worst = &finding;
    }
    if (worst && *worst->loss > kMatters) return worst->name + ": " + worst->meaning;
    return "none of these: the draft is accepted as often as its accuracy on this text lets it";
  }

  CausalLM& model_;
  const DiagnosisOptions& options_;
  int64_t drafted_;
  Answers own_;
  std::vector<double> by_position_;
  std::optional<DraftResult> own_result_;
  AcceptanceDiagnosis result_;
};

}  // namespace

AcceptanceDiagnosis diagnose_acceptance(CausalLM& model, const DiagnosisOptions& options,
                                        const std::vector<std::string>& mismatches) {
  return Diagnosis(model, options).run(mismatches);
}

}  // namespace outrider
