#include <doctest/doctest.h>

#include "outrider/host/mask_report.h"

namespace outrider {
namespace {

TEST_CASE("a mask report counts conversations, tokens and what is trained on") {
  const auto report = mask_report({{10, 5, 2}, {4, 0}, {7, 7}});
  CHECK(report["conversations"] == 4);
  CHECK(report["tokens"] == 31);
  CHECK(report["trained_tokens"] == 17);
  CHECK(report["without_trained_token"] == 1);
  CHECK(report["with_every_token_trained"] == 1);
  CHECK(report["trained_share"]["all"].get<double>() == doctest::Approx(17.0 / 31));
  CHECK(report["trained_share"]["min"] == 0.0);
  CHECK(report["trained_share"]["median"] == 0.5);
  CHECK(report["trained_share"]["max"] == 1.0);
}

TEST_CASE("quantiles of a mask report are those of the nearest rank") {
  const auto lengths = [](const std::vector<ConversationShape>& shapes) {
    return mask_report(shapes)["length"];
  };
  CHECK(lengths({{3, 1}}) ==
        Json{{"min", 3}, {"median", 3}, {"mean", 3.0}, {"p90", 3}, {"max", 3}});
  CHECK(lengths({{4, 1}, {1, 1}, {3, 1}, {2, 1}}) ==
        Json{{"min", 1}, {"median", 2}, {"mean", 2.5}, {"p90", 4}, {"max", 4}});
  CHECK(lengths({{1, 1, 9}, {100, 1}}) ==
        Json{{"min", 1}, {"median", 1}, {"mean", 10.9}, {"p90", 1}, {"max", 100}});
  CHECK(lengths({{1, 1, 8}, {100, 1, 2}})["p90"] == 100);
}

TEST_CASE("the histogram of a mask report has every power of two between the extremes") {
  const auto histogram = mask_report({{1, 1}, {7, 1, 2}, {8, 1}})["histogram"];
  CHECK(histogram == Json::array({{{"from", 1}, {"to", 1}, {"count", 1}},
                                  {{"from", 2}, {"to", 3}, {"count", 0}},
                                  {{"from", 4}, {"to", 7}, {"count", 2}},
                                  {{"from", 8}, {"to", 15}, {"count", 1}}}));
}

}  // namespace
}  // namespace outrider
