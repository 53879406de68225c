#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "report/axis.h"
#include "report/bars.h"
#include "report/chart.h"
#include "report/html.h"
#include "report/page.h"
#include "tiny_training.h"

namespace outrider::report {
namespace {

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST_CASE("numbers are written for people") {
  CHECK(number_text(0) == "0");
  CHECK(number_text(21.29071) == "21.29");
  CHECK(number_text(0.0025) == "0.0025");
  CHECK(number_text(0.00005) == "5e-5");
  CHECK(number_text(1e-20) == "1e-20");
  CHECK(number_text(12345) == "12.35k");
  CHECK(number_text(2.5e6) == "2.5M");
  CHECK(number_text(-3e9) == "-3G");
  CHECK(number_text(std::numeric_limits<double>::quiet_NaN()) == "not a number");
}

TEST_CASE("axes span round values") {
  using List = std::vector<double>;
  const auto axis = Axis::linear(0, 58, 6);
  CHECK(axis.ticks() == List{0, 10, 20, 30, 40, 50, 60});
  CHECK(axis.share(0) == 0);
  CHECK(axis.share(45) == doctest::Approx(0.75));
  const auto narrow = Axis::linear(11.3, 11.9, 5);
  CHECK(narrow.ticks().front() == doctest::Approx(11.2));
  CHECK(narrow.ticks().back() == doctest::Approx(12.0));
  CHECK(Axis::linear(0, 0, 5).ticks().back() == 1.0);
  CHECK(Axis::linear(4, 4, 5).share(4) == doctest::Approx(0.5));
  const auto decades = Axis::logarithmic(0.5, 700);
  CHECK(decades.ticks().size() == 5);
  CHECK(decades.share(10) == doctest::Approx(0.5));
}

TEST_CASE("a figure shows what stands out of a long series, and gaps where there is no number") {
  Chart chart{.title = "Loss <of> it", .unit = "nats", .series = {{.name = "a & b", .points = {}}}};
  CHECK(figure(chart).empty());
  for (int64_t step = 1; step <= 10'000; ++step) {
    chart.series[0].points.push_back({step, step == 4321 ? 100.0 : 1.0});
  }
  auto html = figure(chart);
  CHECK_CONTAINS(html, "Loss &lt;of&gt; it <small>nats</small>");
  CHECK_CONTAINS(html, "<title>a &amp; b, step 1: 1 nats</title>");
  CHECK_CONTAINS(html, ">10k</text>");
  CHECK_CONTAINS(html, ">100</text>");
  CHECK_CONTAINS(html, " 10.0L");  // up to the top of the drawing
  CHECK(html.size() < 40'000);

  chart.series[0].points = {{1, 1.0}, {2, std::numeric_limits<double>::quiet_NaN()}, {3, 2.0}};
  chart.mark = Point{3, 2.0};
  chart.mark_name = "best";
  html = figure(chart);
  CHECK(count(html, "<circle") == 3);
  CHECK_CONTAINS(html, "<title>best: 2</title>");
  CHECK(html.find("nan") == html.npos);
}

TEST_CASE("large differences are drawn logarithmically where that is allowed") {
  Chart chart{.title = "Norm", .unit = "", .series = {{.name = "", .points = {{1, 1}, {2, 999}}}}};
  CHECK(figure(chart).find(">10</text>") == std::string::npos);
  chart.may_be_logarithmic = true;
  CHECK_CONTAINS(figure(chart), ">10</text>");
}

TEST_CASE("text cannot become markup") {
  CHECK(escaped("<script>'\"&\x1b\xff") == "&lt;script&gt;&#39;&quot;&amp;\\x1b\\xff");
}

Json draft(const char* mode, double loss, double accuracy) {
  return {{"mode", mode},
          {"loss", loss},
          {"steps",
           {{{"name", "head_0"}, {"loss", loss / 2}, {"accuracy", accuracy}, {"overlap", 0.25}},
            {{"name", "head_1"}, {"loss", loss / 3}, {"accuracy", accuracy}, {"overlap", 0.25}}}},
          {"expected_acceptance_length", 1 + accuracy},
          {"expected_acceptance_length_sampling", 1.25}};
}

TEST_CASE("a history adds the drafts' losses and survives lines it does not know") {
  const testing::TemporaryFolder folder;
  const auto file = folder.path() / "metrics.jsonl";
  std::ofstream(file) << Json{{"step", 2},
                              {"drafts", {draft("eagle", 6, 0.5), draft("medusa", 3, 0.1)}},
                              {"grad_norm", 1.5},
                              {"learning_rate", nullptr}}
                             .dump()
                      << "\nnot JSON\n{\"drafts\": []}\n[1]\n{\"step\": 4, \"drafts\": 7}\n"
                      << Json{{"step", 4}, {"eval", {{"drafts", {draft("eagle", 5, 0.6)}}}}}.dump()
                      << "\n{\"step\": 6, \"lo";
  const auto history = RunHistory::read(file);
  REQUIRE(history.loss.points.size() == 2);
  CHECK(history.loss.points[0].value == 9);
  REQUIRE(history.held_out_loss.points.size() == 1);
  CHECK(history.held_out_loss.points[0].step == 4);
  CHECK(history.training.size() == 2);
  CHECK(history.training[1].accuracies[1].points[0].value == 0.1);
  CHECK(history.held_out[0].acceptance.points[0].value == doctest::Approx(1.6));
  CHECK(history.gradient_norm.points.size() == 1);
  CHECK_FALSE(history.learning_rate.points[0].value > 0);
}

TEST_CASE("bars are as long as their values, and end inside the figure") {
  BarChart chart{.title = "Speed <up>", .unit = "times", .bars = {}, .level = 1.0};
  CHECK(figure(chart).empty());
  chart.bars = {{"a & b", 2.0, std::pair(1.0, 4.0)},
                {"none", std::numeric_limits<double>::quiet_NaN()},
                {std::string(500, 'x'), 1.0}};
  const auto html = figure(chart);
  CHECK_CONTAINS(html, "Speed &lt;up&gt; <small>times</small>");
  CHECK_CONTAINS(html, "<title>a &amp; b: 2 times (1 - 4)</title>");
  CHECK_CONTAINS(html, "d=\"M0 18h165.0v11H0z\"");  // 2 of 4
  CHECK_CONTAINS(html, "d=\"M82.5 23.5H330.0\"");   // 1 to 4
  CHECK_CONTAINS(html, "d=\"M0 86h82.5v11H0z\"");
  CHECK_CONTAINS(html, "d=\"M82.5 0V");  // the level
  CHECK(count(html, "class=\"bar\"") == 2);
  CHECK(html.find("\">" + std::string(60, 'x')) == std::string::npos);
}

RunReport sample_report() {
  RunReport report;
  report.status = "Finished.";
  report.record = {{"written_by", "outrider 9.9.9"},
                   {"options", {{"model", "<b>m"}, {"seed", 42}}},
                   {"model",
                    {{"folder", "<b>m"},
                     {"architecture", "LlamaForCausalLM"},
                     {"config_sha256", "c0ffee"},
                     {"modes",
                      {{{"mode", "eagle"},
                        {"plugin", {{"name", "eagle"}, {"version", "0.1.0"}, {"sha256", "beef"}}},
                        {"config", {{"eagle_ttt_steps", 3}}}}}}}},
                   {"data",
                    {{"folder", "shards"},
                     {"conversations", 3},
                     {"shards_json_sha256", "dada"},
                     {"shards", {{{"file", "shard-00000.safetensors"}, {"sha256", "abba"}}}}}},
                   {"eval_data", nullptr},
                   {"starts",
                    {{{"time", "2025-01-01T00:00:00Z"},
                      {"step", 0},
                      {"command", "outrider train '<b>m'"},
                      {"environment", {{"threads", 2}, {"libtorch", "2.11.0"}}}}}}};
  report.best = {{"step", 4}, {"loss", 5.0}};
  report.history.add({{"step", 2}, {"drafts", {draft("eagle", 6, 0.5)}}, {"learning_rate", 0.001}});
  report.history.add({{"step", 4}, {"eval", {{"drafts", {draft("eagle", 5, 0.6)}}}}});
  report.samples.push_back({7, 9, {11, 12, 13, 14, 15}, {0, 0, 1, 1, 0}, {}});
  return report;
}

TEST_CASE("a page holds everything and needs nothing from elsewhere") {
  const auto html = page(sample_report());
  for (const auto* text :
       {"<h1>Training of &lt;b&gt;m</h1>", "Finished.", "outrider 9.9.9", "<code>c0ffee</code>",
        "eagle 0.1.0 <code>beef</code>", "<code>dada</code>",
        "shard-00000.safetensors <code>abba</code>", "outrider train &#39;&lt;b&gt;m&#39;",
        "&quot;eagle_ttt_steps&quot;: 3", "Learning rate", "Accuracy of eagle, held out",
        "best held-out loss, step 4", "<td>0.600</td>", "prefers-color-scheme:dark",
        "name=\"viewport\""}) {
    CHECK_CONTAINS(html, text);
  }
  for (const auto* text : {"<script", "http:", "https:", "src=", "url(", "@import", "<b>m"}) {
    CHECK_MESSAGE(html.find(text) == std::string::npos, text);
  }
}

TEST_CASE("the loss mask is shown in stretches") {
  const auto html = page(sample_report());
  CHECK_CONTAINS(html, "9 tokens; of the 5 shown 2 are trained on");
  CHECK_CONTAINS(html,
                 "<span title=\"tokens 0 to 1: not trained on\">11 12</span> "
                 "<mark title=\"tokens 2 to 3: trained on\">13 14</mark> "
                 "<span title=\"tokens 4 to 4: not trained on\">15</span> <i>and 4 more</i>");
}

TEST_CASE("stretches are shown as text where it is known, with their ids to hover over") {
  auto report = sample_report();
  report.samples[0].texts = {"<|user|>\nHi & bye ", "two\n\nlines", ""};
  const auto html = page(report);
  CHECK_CONTAINS(
      html,
      "<p class=\"tokens text\">"
      "<span title=\"tokens 0 to 1: not trained on; ids 11 12\">&lt;|user|&gt;\nHi &amp; "
      "bye </span>"
      "<mark title=\"tokens 2 to 3: trained on; ids 13 14\">two\n\nlines</mark>"
      "<span title=\"tokens 4 to 4: not trained on; ids 15\"></span><i>and 4 more</i>");
  CHECK_CONTAINS(html, "Tokens as text; point at them to see their ids.");
  report.samples[0].texts = {"one of three"};
  CHECK_CONTAINS(page(report), "not trained on\">11 12</span> ");
  CHECK_CONTAINS(page(report), "Token ids.");
}

TEST_CASE("a draft's steps are named after the tokens they predict") {
  const auto html = page(sample_report());
  CHECK_CONTAINS(html, "<td><span title=\"head_0\">draft token 1</span></td>");
  CHECK_CONTAINS(html, "<td><span title=\"head_1\">draft token 2</span></td>");
  CHECK_CONTAINS(html, "<span class=\"c1\" title=\"head_1\">");
  CHECK_CONTAINS(html, "</svg>draft token 2</span>");
  CHECK(html.find(">head_") == html.npos);
}

TEST_CASE("a page of a run that has logged nothing is a page") {
  const auto html = page({.status = "running",
                          .record = Json::object(),
                          .best = nullptr,
                          .history = {},
                          .samples = {}});
  CHECK_CONTAINS(html, "<p>running</p>");
  CHECK(html.find("<figure>") == html.npos);
}

}  // namespace
}  // namespace outrider::report
