#include "outrider/host/draft_results.h"

#include <limits>
#include <utility>

namespace outrider {
namespace {

Json json_of(const StepResult& step) {
  return {{"name", step.name},
          {"loss", step.loss},
          {"accuracy", step.accuracy},
          {"overlap", step.overlap},
          {"count", step.count}};
}

/// JSON has no NaN: it is written as null.
double number_or_nan(const Json& json) {
  return json.is_number() ? json.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

StepResult step_in(const Json& json) {
  return {json.at("name").get<std::string>(), number_or_nan(json.at("loss")),
          number_or_nan(json.at("accuracy")), number_or_nan(json.at("overlap")),
          json.value("count", int64_t{0})};
}

DraftResult draft_in(const Json& json) {
  DraftResult draft{json.at("mode").get<std::string>(), json.at("loss").get<double>(), {}, 0, 0};
  for (const auto& step : json.at("steps")) draft.steps.push_back(step_in(step));
  draft.expected_acceptance_length = number_or_nan(json.at("expected_acceptance_length"));
  draft.expected_acceptance_length_sampling =
      number_or_nan(json.at("expected_acceptance_length_sampling"));
  return draft;
}

}  // namespace

Json to_json(const std::vector<DraftResult>& drafts) {
  Json json = Json::array();
  for (const auto& draft : drafts) {
    Json steps = Json::array();
    for (const auto& step : draft.steps) steps.push_back(json_of(step));
    json.push_back(
        {{"mode", draft.mode},
         {"loss", draft.loss},
         {"steps", std::move(steps)},
         {"expected_acceptance_length", draft.expected_acceptance_length},
         {"expected_acceptance_length_sampling", draft.expected_acceptance_length_sampling}});
  }
  return json;
}

std::optional<std::vector<DraftResult>> draft_results_in(const Json& line) {
  std::vector<DraftResult> drafts;
  try {
    for (const auto& draft : line.at("drafts")) drafts.push_back(draft_in(draft));
  } catch (const Json::exception&) {
    return std::nullopt;
  }
  if (drafts.empty()) return std::nullopt;
  return drafts;
}

}  // namespace outrider
