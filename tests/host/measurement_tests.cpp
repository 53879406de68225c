#include <ATen/ATen.h>

#include <cmath>
#include <fstream>
#include <vector>

#include "generate/measurement.h"
#include "generate/prompt_file.h"
#include "generate/session.h"
#include "outrider/sdk/testing.h"
#include "tiny_training.h"

namespace outrider::testing::measurement_tests {
namespace {

using Tokens = std::vector<int64_t>;

decode::DecodedSequence answer(int64_t tokens, int64_t rounds, Tokens drafted, Tokens accepted) {
  decode::DecodedSequence sequence;
  sequence.tokens.assign(static_cast<size_t>(tokens), 5);
  sequence.rounds = rounds;
  sequence.drafted = std::move(drafted);
  sequence.accepted = std::move(accepted);
  return sequence;
}

TEST_CASE("acceptance is that of all rounds together") {
  const std::vector<decode::DecodedSequence> answers{answer(11, 4, {4, 4}, {4, 2}),
                                                     answer(3, 2, {1}, {0}), answer(1, 0, {}, {})};
  CHECK(acceptance_length(answers) == doctest::Approx(12.0 / 6.0));
  const auto positions = acceptance_by_position(answers);
  REQUIRE(positions.size() == 2);
  CHECK(positions[0] == doctest::Approx(4.0 / 5.0));
  CHECK(positions[1] == doctest::Approx(2.0 / 4.0));
  CHECK(acceptance_length({answer(1, 0, {}, {})}) == 1.0);
}

// For many answers of rounds alike the bootstrap's interval is that of the mean of their lengths.
TEST_CASE(
    "the interval of acceptance lengths is that of the normal distribution for many answers") {
  const int64_t count = 400;
  const auto extra = at::randint(0, 30, {count}, at::kLong);
  std::vector<decode::DecodedSequence> answers;
  for (int64_t i = 0; i < count; ++i) {
    answers.push_back(answer(11 + extra[i].item<int64_t>(), 10, {}, {}));
  }
  const auto lengths = 1.0 + extra.to(at::kDouble) / 10.0;
  const double mean = lengths.mean().item<double>();
  const double half = 1.96 * lengths.std(0).item<double>() / std::sqrt(static_cast<double>(count));
  const auto interval = acceptance_interval(answers);
  CHECK(std::abs(interval.low - (mean - half)) < 0.15 * half);
  CHECK(std::abs(interval.high - (mean + half)) < 0.15 * half);
}

// Two batches in a measurement and in plain decoding: of the pairs that can be drawn the extremes
// are known, and each has a quarter of the draws.
TEST_CASE("the interval of a speed-up is of batches, the same ones of both") {
  Measurement fast, plain;
  for (const int64_t tokens : {10, 30}) {
    fast.answers.push_back(answer(tokens, 5, {}, {}));
    plain.answers.push_back(answer(tokens, tokens - 1, {}, {}));
  }
  fast.batches = {{1, {0.5, 0.25, 0.25}}, {1, {0.0, 1.0, 1.0}}};
  plain.batches = {{1, {2.0, 0.0, 0.0}}, {1, {0.0, 0.0, 8.0}}};
  CHECK(fast.seconds().total() == doctest::Approx(3.0));
  CHECK(fast.seconds().draft == doctest::Approx(1.25));
  CHECK(tokens_per_second(fast) == doctest::Approx(40.0 / 3.0));
  const auto interval = speed_up_interval(fast, plain);
  REQUIRE(interval);
  CHECK(interval->low == doctest::Approx(2.0));
  CHECK(interval->high == doctest::Approx(4.0));
  fast.batches = {{2, {0.5, 0.25, 0.25}}};
  CHECK_FALSE(speed_up_interval(fast, plain));
}

TEST_CASE("a measurement is read as it was written") {
  Measurement measurement;
  measurement.answers = {answer(11, 4, {4, 4}, {4, 2}), answer(3, 2, {1}, {0})};
  measurement.answers[1].stopped = true;
  measurement.batches = {{2, {0.5, 0.25, 0.125}}};
  auto json = to_json(measurement);
  CHECK(to_json(measurement_in(json)) == json);
  CHECK(measurement_in(json).answers[0].accepted == Tokens{4, 2});
  json["batches"][0]["prompts"] = 3;
  CHECK_THROWS_AS(measurement_in(json), Json::exception);
  json.erase("batches");
  CHECK_THROWS_AS(measurement_in(json), Json::exception);
}

TEST_CASE("prompts are spread over their file") {
  std::vector<Json> prompts;
  for (int i = 0; i < 10; ++i) prompts.push_back(i);
  CHECK(spread(prompts, 4) == std::vector<Json>{0, 2, 5, 7});
  CHECK(spread(prompts, 0) == prompts);
  CHECK(spread(prompts, 11) == prompts);
}

TEST_CASE("draft settings become requests") {
  CHECK(DraftPlan({}).request().max_tokens == 3);
  CHECK(DraftPlan({}).request().width == 1);
  const DraftPlan fixed({.shape = DraftShape::kStaticTree, .tokens = 7, .depth = 3, .width = 2});
  REQUIRE(fixed.request().form != nullptr);
  CHECK(fixed.request().form->parents.size() == 7);
  const DraftPlan dynamic({.shape = DraftShape::kDynamicTree, .depth = 5});
  CHECK(dynamic.request().form == nullptr);
  CHECK(dynamic.request().max_tokens == 16);
  CHECK(dynamic.request().depth == 5);
  CHECK_CONTAINS(failure(ErrorCode::kInvalidArgument, [] { DraftPlan({.tokens = -1}); }),
                 "at least one");
}

TEST_CASE("stop tokens are those of generation_config.json, or of config.json") {
  const TemporaryFolder folder;
  const auto write = [&](const char* name, const char* text) {
    std::ofstream(folder.path() / name) << text;
  };
  write("config.json", R"({"eos_token_id": 7})");
  CHECK(stop_tokens(folder.path()) == Tokens{7});
  write("generation_config.json", R"({"eos_token_id": [3, 4]})");
  CHECK(stop_tokens(folder.path()) == Tokens{3, 4});
  write("generation_config.json", "{}");
  CHECK(stop_tokens(folder.path()).empty());
  write("generation_config.json", R"({"eos_token_id": "a"})");
  CHECK_CONTAINS(failure(ErrorCode::kInvalidFile, [&] { stop_tokens(folder.path()); }),
                 "'eos_token_id' is no token");
}

}  // namespace
}  // namespace outrider::testing::measurement_tests
