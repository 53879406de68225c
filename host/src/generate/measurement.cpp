#include "generate/measurement.h"

#include <algorithm>
#include <iterator>
#include <random>
#include <utility>

namespace outrider {
namespace {

using Answers = std::vector<decode::DecodedSequence>;

constexpr int kResamples = 2000;

// Tokens that passes after the prompt's gave, and these passes.
struct Emitted {
  double tokens = 0.0, rounds = 0.0;

  void add(const decode::DecodedSequence& answer) {
    if (answer.rounds == 0) return;
    tokens += static_cast<double>(answer.tokens.size() - 1);
    rounds += static_cast<double>(answer.rounds);
  }
  double length() const { return rounds > 0.0 ? tokens / rounds : 1.0; }
};

// What a batch gave in which time.
struct Pace {
  double tokens = 0.0, seconds = 0.0;

  void add(const Pace& other) {
    tokens += other.tokens;
    seconds += other.seconds;
  }
  double speed() const { return tokens / seconds; }
};

std::vector<Pace> paces_of(const Measurement& measurement) {
  std::vector<Pace> paces;
  auto answer = measurement.answers.begin();
  for (const auto& batch : measurement.batches) {
    paces.push_back({0.0, batch.seconds.total()});
    for (size_t i = 0; i < batch.prompts; ++i, ++answer) {
      paces.back().tokens += static_cast<double>(answer->tokens.size());
    }
  }
  return paces;
}

// Between what 95 % of the values lie that `statistic` gives for draws below `count`.
template <class Statistic>
Interval bootstrapped(size_t count, const Statistic& statistic) {
  std::mt19937_64 generator(0);
  std::vector<double> values;
  for (int i = 0; i < kResamples; ++i) {
    values.push_back(statistic([&] { return generator() % count; }));
  }
  std::sort(values.begin(), values.end());
  return {values[kResamples * 25 / 1000], values[kResamples * 975 / 1000 - 1]};
}

}  // namespace

Measurement measure(const decode::Decoder& decoder, const MeasuredTokens& prompts,
                    const decode::DecodeOptions& options, int64_t batch_size,
                    const std::function<void(size_t)>& on_batch) {
  Measurement result;
  const auto step = static_cast<std::ptrdiff_t>(batch_size);
  for (auto begin = prompts.begin(); begin != prompts.end();) {
    const auto end = begin + std::min(step, prompts.end() - begin);
    auto batch = decoder.run({begin, end}, options);
    std::move(batch.sequences.begin(), batch.sequences.end(), std::back_inserter(result.answers));
    result.batches.push_back({static_cast<size_t>(end - begin),
                              {batch.prompt_seconds, batch.draft_seconds, batch.base_seconds}});
    if (on_batch) on_batch(result.answers.size());
    begin = end;
  }
  return result;
}

Seconds Measurement::seconds() const {
  Seconds sum;
  for (const auto& batch : batches) {
    sum.prompts += batch.seconds.prompts;
    sum.draft += batch.seconds.draft;
    sum.base += batch.seconds.base;
  }
  return sum;
}

void append(Measurement& measurement, const Measurement& more) {
  measurement.answers.insert(measurement.answers.end(), more.answers.begin(), more.answers.end());
  measurement.batches.insert(measurement.batches.end(), more.batches.begin(), more.batches.end());
}

size_t new_tokens(const Measurement& measurement) {
  size_t count = 0;
  for (const auto& answer : measurement.answers) count += answer.tokens.size();
  return count;
}

double tokens_per_second(const Measurement& measurement) {
  return static_cast<double>(new_tokens(measurement)) / measurement.seconds().total();
}

double acceptance_length(const Answers& answers) {
  Emitted emitted;
  for (const auto& answer : answers) emitted.add(answer);
  return emitted.length();
}

std::vector<double> acceptance_by_position(const Answers& answers) {
  std::vector<double> drafted, accepted;
  for (const auto& answer : answers) {
    const auto size = std::max(drafted.size(), answer.drafted.size());
    drafted.resize(size);
    accepted.resize(size);
    for (size_t i = 0; i < answer.drafted.size(); ++i) {
      drafted[i] += static_cast<double>(answer.drafted[i]);
      accepted[i] += static_cast<double>(answer.accepted[i]);
    }
  }
  for (size_t i = 0; i < drafted.size(); ++i) accepted[i] /= std::max(drafted[i], 1.0);
  return accepted;
}

Interval acceptance_interval(const Answers& answers) {
  return bootstrapped(answers.size(), [&](const auto& draw) {
    Emitted emitted;
    for (size_t n = 0; n < answers.size(); ++n) emitted.add(answers[draw()]);
    return emitted.length();
  });
}

std::optional<Interval> speed_up_interval(const Measurement& measurement,
                                          const Measurement& plain) {
  const auto ours = paces_of(measurement), theirs = paces_of(plain);
  if (ours.size() < 2) return std::nullopt;
  return bootstrapped(ours.size(), [&](const auto& draw) {
    Pace our_sum, their_sum;
    for (size_t n = 0; n < ours.size(); ++n) {
      const auto batch = draw();
      our_sum.add(ours[batch]);
      their_sum.add(theirs.at(batch));
    }
    return our_sum.speed() / their_sum.speed();
  });
}

Acceptance acceptance_of(const Answers& answers) {
  return {acceptance_length(answers), acceptance_interval(answers),
          acceptance_by_position(answers)};
}

Json to_json(const Acceptance& acceptance) {
  return {{"acceptance_length", acceptance.length},
          {"interval", {acceptance.interval.low, acceptance.interval.high}},
          {"acceptance_by_position", acceptance.by_position}};
}

Acceptance acceptance_in(const Json& json) {
  const auto& interval = json.at("interval");
  return {json.at("acceptance_length").get<double>(),
          {interval.at(0).get<double>(), interval.at(1).get<double>()},
          json.at("acceptance_by_position").get<std::vector<double>>()};
}

Json to_json(const decode::DecodedSequence& answer) {
  return {{"token_ids", answer.tokens},
          {"rounds", answer.rounds},
          {"drafted", answer.drafted},
          {"accepted", answer.accepted},
          {"stopped", answer.stopped}};
}

decode::DecodedSequence answer_in(const Json& json) {
  decode::DecodedSequence answer;
  json.at("token_ids").get_to(answer.tokens);
  json.at("rounds").get_to(answer.rounds);
  json.at("drafted").get_to(answer.drafted);
  json.at("accepted").get_to(answer.accepted);
  json.at("stopped").get_to(answer.stopped);
  return answer;
}

Json to_json(const Seconds& seconds) {
  return {{"prompts", seconds.prompts}, {"draft", seconds.draft}, {"base", seconds.base}};
}

Json to_json(const Measurement& measurement) {
  Json answers = Json::array(), batches = Json::array();
  for (const auto& answer : measurement.answers) answers.push_back(to_json(answer));
  for (const auto& batch : measurement.batches) {
    batches.push_back({{"prompts", batch.prompts}, {"seconds", to_json(batch.seconds)}});
  }
  return {{"answers", std::move(answers)}, {"batches", std::move(batches)}};
}

Measurement measurement_in(const Json& json) {
  Measurement measurement;
  for (const auto& answer : json.at("answers")) measurement.answers.push_back(answer_in(answer));
  size_t prompts = 0;
  for (const auto& batch : json.at("batches")) {
    const auto& seconds = batch.at("seconds");
    measurement.batches.push_back(
        {batch.at("prompts").get<size_t>(),
         {seconds.at("prompts").get<double>(), seconds.at("draft").get<double>(),
          seconds.at("base").get<double>()}});
    prompts += measurement.batches.back().prompts;
  }
  if (prompts != measurement.answers.size()) {
    throw Json::other_error::create(501, "batches of other prompts than the answers", &json);
  }
  return measurement;
}

}  // namespace outrider
