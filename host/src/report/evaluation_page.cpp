#include "report/evaluation_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "report/bars.h"
#include "report/chart.h"
#include "report/html.h"

namespace outrider::report {
namespace {

using Ways = std::vector<Json>;

bool drafts(const Json& way) { return way["drafter"] != "none"; }

std::string word(const Json& way, const char* key) { return way[key].get<std::string>(); }

std::string draft_of(const Json& way) {
  if (!drafts(way)) return {};
  return fmt::format("{}:{}", word(way, "draft_shape"), way["num_draft_tokens"].get<int64_t>());
}

std::string decimals(const Json& value, int count) {
  return value.is_number() ? fmt::format("{:.{}f}", value.get<double>(), count) : "–";
}

std::optional<std::pair<double, double>> interval_of(const Json& way, const char* key) {
  if (!way[key].is_array()) return std::nullopt;
  return std::pair(way[key][0].get<double>(), way[key][1].get<double>());
}

/// Of the ways that are alike in `key` the one with most of `value`, in their order.
template <class Key, class Value>
Ways best_by(const Json& ways, const Key& key, const Value& value) {
  Ways best;
  for (const auto& way : ways) {
    if (!drafts(way)) continue;
    const auto found =
        std::ranges::find_if(best, [&](const Json& other) { return key(other) == key(way); });
    if (found == best.end()) {
      best.push_back(way);
    } else if (value(way) > value(*found)) {
      *found = way;
    }
  }
  return best;
}

/// What is accepted does not depend on the batch size, nor earlier positions on later ones.
Ways longest_drafts(const Json& ways) {
  return best_by(
      ways,
      [](const Json& way) { return std::tuple(way["model"], way["drafter"], way["draft_shape"]); },
      [](const Json& way) { return way["num_draft_tokens"].get<int64_t>(); });
}

Ways fastest_of_each_drafter(const Json& ways) {
  return best_by(
      ways,
      [](const Json& way) { return std::tuple(way["model"], way["drafter"], way["batch_size"]); },
      [](const Json& way) { return way["speed_up"].get<double>(); });
}

bool has_several(const Json& ways, const char* key) {
  return std::ranges::any_of(ways, [&](const Json& way) { return way[key] != ways.front()[key]; });
}

/// What tells a way from the others.
std::string name_of(const Json& ways, const Json& way, bool with_batch_size) {
  auto name = fmt::format("{} {}", word(way, "drafter"), draft_of(way));
  if (has_several(ways, "model")) name += ", " + word(way, "model");
  if (with_batch_size && has_several(ways, "batch_size")) {
    name += fmt::format(", batch size {}", way["batch_size"].dump());
  }
  return name;
}

std::string position_chart(const Json& ways) {
  Chart chart{.title = "Accepted at each position",
              .unit = "share of rounds",
              .series = {},
              .starts_at_zero = true,
              .mark = {},
              .mark_name = {},
              .steps = "position of the drafted token",
              .step = "position"};
  for (const auto& way : longest_drafts(ways)) {
    Series series{.name = name_of(ways, way, false), .points = {}};
    int64_t position = 0;
    for (const auto& share : way["acceptance_by_position"]) {
      series.points.push_back({++position, share.get<double>()});
    }
    chart.series.push_back(std::move(series));
  }
  return figure(chart);
}

// One bar for each of `chosen`, its value under `key`.
std::string bars(BarChart chart, const Json& ways, const Ways& chosen, bool with_batch_size,
                 const char* key, const char* interval) {
  for (const auto& way : chosen) {
    chart.bars.push_back({name_of(ways, way, with_batch_size), way[key].get<double>(),
                          interval_of(way, interval), chart.bars.size()});
  }
  return figure(chart);
}

std::string speed_up_chart(const Json& ways) {
  return bars({.title = "Speed-up", .unit = "times plain decoding", .bars = {}, .level = 1.0}, ways,
              fastest_of_each_drafter(ways), true, "speed_up", "speed_up_interval");
}

std::string length_chart(const Json& ways) {
  return bars({.title = "Acceptance length", .unit = "tokens per pass", .bars = {}, .level = 1.0},
              ways, longest_drafts(ways), false, "acceptance_length", "interval");
}

std::string category_chart(const Json& ways) {
  BarChart chart{.title = "Acceptance length by category",
                 .unit = "tokens per pass",
                 .bars = {},
                 .level = 1.0};
  const auto shown = longest_drafts(ways);
  if (shown.empty()) return {};
  for (const auto& [category, first] : shown.front()["acceptance_length_by_category"].items()) {
    for (size_t i = 0; i < shown.size(); ++i) {
      chart.bars.push_back({fmt::format("{}: {}", category, name_of(ways, shown[i], false)),
                            shown[i]["acceptance_length_by_category"][category].get<double>(),
                            {},
                            i});
    }
  }
  return figure(chart);
}

/// Speed over the number of draft tokens, of one model at one batch size.
std::string sweep_chart(const Json& ways, const Json& model, const Json& batch_size) {
  std::map<std::string, Series> lines;
  double plain = 0;
  int64_t least = INT64_MAX, most = 0;
  for (const auto& way : ways) {
    if (way["model"] != model || way["batch_size"] != batch_size) continue;
    const auto speed = way["tokens_per_second"].get<double>();
    if (!drafts(way)) {
      plain = speed;
      continue;
    }
    const auto tokens = way["num_draft_tokens"].get<int64_t>();
    least = std::min(least, tokens);
    most = std::max(most, tokens);
    auto& line = lines[word(way, "drafter") + ", " + word(way, "draft_shape")];
    line.points.push_back({tokens, speed});
  }
  if (least >= most) return {};
  Chart chart{.title = fmt::format("Speed at batch size {}", batch_size.dump()),
              .unit = "tokens/s",
              .series = {{.name = "plain", .points = {{least, plain}, {most, plain}}}},
              .starts_at_zero = true,
              .mark = {},
              .mark_name = {},
              .steps = "tokens that are drafted for a pass",
              .step = "draft tokens"};
  if (has_several(ways, "model")) chart.title += ", " + model.get<std::string>();
  for (auto& [name, line] : lines) {
    line.name = name;
    line.held_out = true;
    std::ranges::sort(line.points, {}, &Point::step);
    chart.series.push_back(line);
  }
  return figure(chart);
}

std::string sweep_charts(const Json& results) {
  std::string html;
  for (const auto& fastest : results["fastest"]) {
    html += sweep_chart(results["ways"], fastest["model"], fastest["batch_size"]);
  }
  return html;
}

std::string ways_table(const Json& ways) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& way : ways) {
    const auto& seconds = way["seconds"];
    const double draft = seconds["draft"].get<double>();
    const double all = draft + seconds["base"].get<double>() + seconds["prompts"].get<double>();
    const auto ends = [&](const char* key, int count) {
      if (!way[key].is_array()) return std::string("–");
      return decimals(way[key][0], count) + " to " + decimals(way[key][1], count);
    };
    rows.push_back({escaped(word(way, "model")),
                    escaped(fmt::format("{} {}", word(way, "drafter"), draft_of(way))),
                    way["batch_size"].dump(), decimals(way["acceptance_length"], 3),
                    ends("interval", 3), decimals(way["tokens_per_second"], 1),
                    decimals(way["speed_up"], 2), ends("speed_up_interval", 2),
                    fmt::format("{:.0f} %", 100 * draft / all)});
  }
  return table({"model", "drafter", "batch size", "tokens per pass", "95 %", "tokens/s", "speed-up",
                "95 %", "drafting"},
               rows);
}

std::string verdicts(const Json& results) {
  std::string html;
  for (const auto& fastest : results["fastest"]) {
    const auto best = drafts(fastest)
                          ? fmt::format("{} {}, {} times plain decoding", word(fastest, "drafter"),
                                        draft_of(fastest), decimals(fastest["speed_up"], 2))
                          : std::string("plain decoding");
    html +=
        fmt::format("<p>{}, batch size {}: the fastest is <b>{}</b>.</p>\n",
                    escaped(word(fastest, "model")), fastest["batch_size"].dump(), escaped(best));
  }
  return html;
}

std::string settings_list(const Json& settings) {
  std::vector<std::pair<std::string, std::string>> items;
  for (const auto& [name, value] : settings["options"].items()) {
    items.emplace_back(name, escaped(value.is_string() ? value.get<std::string>() : value.dump()));
  }
  for (const auto& [model, hash] : settings["models"].items()) {
    items.emplace_back(fmt::format("SHA-256 of the files of {}", model),
                       "<code>" + escaped(hash.get<std::string>()) + "</code>");
  }
  return definitions(items);
}

}  // namespace

std::string evaluation_page(const Json& results, const Json& settings) {
  const auto& ways = results["ways"];
  const auto charts = speed_up_chart(ways) + sweep_charts(results) + length_chart(ways) +
                      position_chart(ways) + category_chart(ways);
  return document_start("Evaluation of drafts") +
         fmt::format(
             "<header>\n<h1>What drafts are worth</h1>\n<p>{} prompts. {}Written by "
             "{}.</p>\n{}</header>\n",
             results["prompts"].dump(), results["finished"].get<bool>() ? "" : "Not finished yet. ",
             escaped(word(settings, "written_by")), verdicts(results)) +
         section("Charts", "<div class=\"charts\">\n" + charts + "</div>\n") +
         section(
             "Ways to decode",
             ways_table(ways) +
                 "<p class=\"note\">Tokens per pass: of all prompts together, with where it lies "
                 "for other prompts of the kind. Speed-up: by plain decoding of the same folder "
                 "at the same batch size, with where it lies for other batches. Drafting: the "
                 "draft’s share of the time.</p>\n") +
         section("Settings", settings_list(settings)) + document_end();
}

}  // namespace outrider::report
