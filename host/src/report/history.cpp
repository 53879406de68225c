#include "report/history.h"

#include <algorithm>
#include <fstream>
#include <limits>

#include "report/step_label.h"

namespace outrider::report {
namespace {

double as_number(const Json& json) {
  return json.is_number() ? json.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

double number_at(const Json& json, const char* key) {
  const auto found = json.find(key);
  return as_number(found != json.end() ? *found : Json());
}

std::string text_at(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : "?";
}

Json list_at(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_array() ? *found : Json::array();
}

void add_value(Series& series, int64_t step, const Json& line, const char* key) {
  if (line.contains(key)) series.points.push_back({step, number_at(line, key)});
}

double sum_of_losses(const Json& drafts) {
  double sum = 0;
  for (const auto& draft : drafts) sum += number_at(draft, "loss");
  return sum;
}

// As many series as there are steps of a draft.
std::vector<Series>& accuracies(DraftHistory& history, size_t count) {
  for (size_t i = history.accuracies.size(); i < count; ++i) {
    history.accuracies.emplace_back().name = step_label(i);
  }
  return history.accuracies;
}

void add_draft(DraftHistory& history, int64_t step, const Json& draft) {
  history.mode = text_at(draft, "mode");
  const auto steps = list_at(draft, "steps");
  auto& series = accuracies(history, steps.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    series[i].detail = text_at(steps[i], "name");
    series[i].points.push_back({step, number_at(steps[i], "accuracy")});
  }
  history.acceptance.points.push_back({step, number_at(draft, "expected_acceptance_length")});
}

void add_decoded(DraftHistory& history, int64_t step, const Json& draft) {
  history.mode = text_at(draft, "mode");
  const auto positions = list_at(draft, "acceptance_by_position");
  auto& series = accuracies(history, positions.size());
  for (size_t i = 0; i < positions.size(); ++i) {
    series[i].points.push_back({step, as_number(positions[i])});
  }
  const auto interval = list_at(draft, "interval");
  Point length{step, number_at(draft, "acceptance_length")};
  if (interval.size() == 2) length.interval = {as_number(interval[0]), as_number(interval[1])};
  history.acceptance.points.push_back(length);
}

using AddOne = void (*)(DraftHistory& history, int64_t step, const Json& draft);

void add_all(std::vector<DraftHistory>& histories, int64_t step, const Json& drafts, AddOne add) {
  histories.resize(std::max(histories.size(), drafts.size()));
  for (size_t i = 0; i < drafts.size(); ++i) add(histories[i], step, drafts[i]);
}

}  // namespace

RunHistory::RunHistory() {
  loss.name = "training";
  held_out_loss.name = "held out";
  held_out_loss.held_out = true;
  lm_loss.name = "training";
  learning_rate.name = "learning rate";
  gradient_norm.name = "gradient norm";
  tokens_per_second.name = "all tokens";
  trained_tokens_per_second.name = "trained tokens";
  memory.name = "memory";
}

RunHistory RunHistory::read(const std::filesystem::path& file) {
  RunHistory history;
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    const auto json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_object()) history.add(json);
  }
  return history;
}

void RunHistory::add(const Json& line) {
  const auto found = line.find("step");
  if (found == line.end() || !found->is_number_integer()) return;
  const auto step = found->get<int64_t>();
  if (const auto evaluation = line.find("eval"); evaluation != line.end()) {
    const auto drafts = list_at(*evaluation, "drafts");
    held_out_loss.points.push_back({step, sum_of_losses(drafts)});
    add_all(held_out, step, drafts, add_draft);
    last_evaluation = line;
    return;
  }
  if (const auto decoding = line.find("decoding"); decoding != line.end()) {
    add_all(decoded, step, list_at(*decoding, "drafts"), add_decoded);
    last_decoding = line;
    return;
  }
  const auto drafts = list_at(line, "drafts");
  loss.points.push_back({step, sum_of_losses(drafts)});
  add_all(training, step, drafts, add_draft);
  add_value(lm_loss, step, line, "lm_loss");
  add_value(learning_rate, step, line, "learning_rate");
  add_value(gradient_norm, step, line, "grad_norm");
  add_value(tokens_per_second, step, line, "tokens_per_second");
  add_value(trained_tokens_per_second, step, line, "trained_tokens_per_second");
  add_value(memory, step, line, "peak_memory_mib");
  last_training = line;
}

}  // namespace outrider::report
