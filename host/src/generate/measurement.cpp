#include "generate/measurement.h"

#include <algorithm>
#include <iterator>
#include <random>

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
    result.prompt_seconds += batch.prompt_seconds;
    result.draft_seconds += batch.draft_seconds;
    result.base_seconds += batch.base_seconds;
    if (on_batch) on_batch(result.answers.size());
    begin = end;
  }
  return result;
}

size_t new_tokens(const Measurement& measurement) {
  size_t count = 0;
  for (const auto& answer : measurement.answers) count += answer.tokens.size();
  return count;
}

double tokens_per_second(const Measurement& measurement) {
  return static_cast<double>(new_tokens(measurement)) / measurement.seconds();
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
  std::mt19937_64 generator(0);
  std::vector<double> lengths;
  for (int i = 0; i < kResamples; ++i) {
    Emitted emitted;
    for (size_t n = 0; n < answers.size(); ++n) emitted.add(answers[generator() % answers.size()]);
    lengths.push_back(emitted.length());
  }
  std::sort(lengths.begin(), lengths.end());
  return {lengths[kResamples * 25 / 1000], lengths[kResamples * 975 / 1000 - 1]};
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

}  // namespace outrider
