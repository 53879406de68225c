#include "generate/evaluation_results.h"

#include <algorithm>
#include <map>
#include <utility>

namespace outrider {
namespace {

Json named(const MeasuredWay& way) {
  auto json = to_json(way.way);
  json["model"] = way.model;
  json["drafter"] = way.drafter;
  return json;
}

bool are_beside(const MeasuredWay& a, const MeasuredWay& b) {
  return a.model == b.model && a.way.batch_size == b.way.batch_size;
}

}  // namespace

const MeasuredWay& EvaluationResults::plain_of(const MeasuredWay& way) const {
  return *std::ranges::find_if(ways_, [&](const MeasuredWay& other) {
    return are_beside(way, other) && other.way.drafter == DrafterKind::kNone;
  });
}

double EvaluationResults::speed_up(const MeasuredWay& way) const {
  return tokens_per_second(way.measured) / tokens_per_second(plain_of(way).measured);
}

void EvaluationResults::add_speed_up(Json& json, const MeasuredWay& way) const {
  const auto interval = speed_up_interval(way.measured, plain_of(way).measured);
  json["speed_up"] = speed_up(way);
  json["speed_up_interval"] = interval ? Json{interval->low, interval->high} : Json();
}

Json EvaluationResults::by_category(const std::vector<decode::DecodedSequence>& answers) const {
  std::map<std::string, std::vector<decode::DecodedSequence>> groups;
  for (size_t i = 0; i < answers.size(); ++i) {
    if (!categories_[i].empty()) groups[categories_[i]].push_back(answers[i]);
  }
  Json json = Json::object();
  for (const auto& [category, group] : groups) json[category] = acceptance_length(group);
  return json;
}

Json EvaluationResults::described(const MeasuredWay& way) const {
  auto answers = way.measured.answers;
  answers.resize(std::min(answers.size(), categories_.size()));
  auto json = named(way);
  json.update(outrider::to_json(acceptance_of(answers)));
  json["acceptance_length_by_category"] = by_category(answers);
  json["tokens_per_second"] = tokens_per_second(way.measured);
  add_speed_up(json, way);
  json["seconds"] = outrider::to_json(way.measured.seconds());
  for (const auto& answer : answers) json["answers"].push_back(outrider::to_json(answer));
  return json;
}

Json EvaluationResults::fastest() const {
  std::vector<const MeasuredWay*> best;
  for (const auto& way : ways_) {
    const auto found = std::ranges::find_if(
        best, [&](const MeasuredWay* other) { return are_beside(*other, way); });
    if (found == best.end()) {
      best.push_back(speed_up(way) > 1.0 ? &way : &plain_of(way));
    } else if (speed_up(way) > speed_up(**found)) {
      *found = &way;
    }
  }
  Json json = Json::array();
  for (const auto* way : best) {
    json.push_back(named(*way));
    add_speed_up(json.back(), *way);
  }
  return json;
}

Json EvaluationResults::to_json() const {
  Json ways = Json::array();
  for (const auto& way : ways_) ways.push_back(described(way));
  return {{"prompts", categories_.size()}, {"ways", std::move(ways)}, {"fastest", fastest()}};
}

}  // namespace outrider
