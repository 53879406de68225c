#include "report/details.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "report/html.h"
#include "report/step_label.h"

namespace outrider::report {
namespace {

using Items = std::vector<std::pair<std::string, std::string>>;

/// A value at a path, as text in HTML; a dash where it is missing or null.
std::string text_of(const Json& json, const char* pointer) {
  const Json::json_pointer path(pointer);
  if (!json.contains(path) || json.at(path).is_null()) return "–";
  const auto& value = json.at(path);
  return escaped(value.is_string() ? value.get<std::string>() : value.dump());
}

Json list_of(const Json& json, const char* pointer) {
  const Json::json_pointer path(pointer);
  return json.contains(path) && json.at(path).is_array() ? json.at(path) : Json::array();
}

std::string code(const std::string& html) { return "<code>" + html + "</code>"; }

std::string with_decimals(const Json& value, int decimals) {
  return value.is_number() ? fmt::format("{:.{}f}", value.get<double>(), decimals) : "–";
}

std::string number_of(const Json& json, const char* key, int decimals) {
  return with_decimals(json.contains(key) ? json[key] : Json(), decimals);
}

// --- results -----------------------------------------------------------------------------------

const Json& entry(const Json& list, size_t i) {
  static const Json none = Json::object();
  return i < list.size() ? list[i] : none;
}

/// The name that the algorithm gives its step is there to hover over.
std::string draft_token(size_t step, const std::string& name) {
  return fmt::format("<span title=\"{}\">{}</span>", name, step_label(step));
}

void add_result_rows(std::vector<std::vector<std::string>>& rows, const Json& training,
                     const Json& held_out) {
  const auto mode = text_of(training.empty() ? held_out : training, "/mode");
  const auto left = list_of(training, "/steps"), right = list_of(held_out, "/steps");
  for (size_t i = 0; i < std::max(left.size(), right.size()); ++i) {
    const auto &a = entry(left, i), &b = entry(right, i);
    rows.push_back({mode, draft_token(i, text_of(a.empty() ? b : a, "/name")),
                    number_of(a, "loss", 4), number_of(a, "accuracy", 3),
                    number_of(a, "overlap", 3), number_of(b, "loss", 4),
                    number_of(b, "accuracy", 3), number_of(b, "overlap", 3)});
  }
  rows.push_back({mode, "<b>acceptance length</b>", "",
                  number_of(training, "expected_acceptance_length", 2),
                  number_of(training, "expected_acceptance_length_sampling", 2), "",
                  number_of(held_out, "expected_acceptance_length", 2),
                  number_of(held_out, "expected_acceptance_length_sampling", 2)});
}

// --- loss mask ---------------------------------------------------------------------------------

std::string ids_of(const MaskSample& sample, int64_t begin, int64_t end) {
  return fmt::format(
      "{}", fmt::join(sample.input_ids.begin() + begin, sample.input_ids.begin() + end, " "));
}

std::string with_line_breaks(const std::string& text) {
  auto html = preformatted(text);
  html.pop_back();  // the break behind the last line
  return html;
}

/// A stretch as text with its ids to hover over, or as ids.
std::string stretch(const MaskSample& sample, int64_t begin, int64_t end, const std::string* text) {
  const bool trained = sample.loss_mask[static_cast<size_t>(begin)] != 0;
  const auto ids = ids_of(sample, begin, end);
  const auto title =
      fmt::format("tokens {} to {}: {}{}", begin, end - 1,
                  trained ? "trained on" : "not trained on", text ? "; ids " + ids : "");
  return fmt::format("<{0} title=\"{1}\">{2}</{0}>{3}", trained ? "mark" : "span", title,
                     text ? with_line_breaks(*text) : ids, text ? "" : " ");
}

bool is_text(const MaskSample& sample) {
  return !sample.texts.empty() && sample.texts.size() == stretches(sample).size();
}

std::string tokens(const MaskSample& sample) {
  const auto all = stretches(sample);
  const bool has_text = is_text(sample);
  std::string html;
  int64_t trained = 0, size = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const auto [begin, end] = all[i];
    html += stretch(sample, begin, end, has_text ? &sample.texts[i] : nullptr);
    if (sample.loss_mask[static_cast<size_t>(begin)] != 0) trained += end - begin;
    size = end;
  }
  const auto left = sample.length - size;
  if (left > 0) html += fmt::format("<i>and {} more</i>", left);
  return fmt::format(
      "<h3>Conversation {}</h3>\n<p class=\"note\">{} tokens; of the {} shown {} are "
      "trained on</p>\n<p class=\"tokens{}\">{}</p>\n",
      sample.conversation, sample.length, size, trained, has_text ? " text" : "", html);
}

// --- provenance --------------------------------------------------------------------------------

Items data_items(const Json& record, const std::string& key, const std::string& name) {
  if (!record.contains(key) || !record[key].is_object()) return {};
  const auto& data = record[key];
  Items items = {{name, fmt::format("{}: {} conversations, {} tokens, {} of them trained on",
                                    text_of(data, "/folder"), text_of(data, "/conversations"),
                                    text_of(data, "/tokens"), text_of(data, "/trained_tokens"))},
                 {name + ", SHA-256 of shards.json", code(text_of(data, "/shards_json_sha256"))}};
  for (const auto& shard : list_of(data, "/shards")) {
    items.emplace_back(name + ", SHA-256 of a shard", fmt::format("{} {}", text_of(shard, "/file"),
                                                                  code(text_of(shard, "/sha256"))));
  }
  return items;
}

Items start_items(const Json& record) {
  Items items;
  for (const auto& start : list_of(record, "/starts")) {
    const bool first = text_of(start, "/step") == "0" && items.empty();
    items.emplace_back(
        first ? "Started" : "Continued",
        fmt::format("{}, step {}, on {} ({} hardware threads, {} used; device {}; {}), LibTorch "
                    "{}<br>{}",
                    text_of(start, "/time"), text_of(start, "/step"), text_of(start, "/cpu"),
                    text_of(start, "/cpu_threads_of_machine"),
                    text_of(start, "/environment/threads"), text_of(start, "/environment/device"),
                    text_of(start, "/environment/cpu_capability"),
                    text_of(start, "/environment/libtorch"), code(text_of(start, "/command"))));
  }
  return items;
}

Items plugin_items(const Json& record) {
  Items items;
  for (const auto& mode : list_of(record, "/model/modes")) {
    items.emplace_back(
        "Plugin of mode " + mode.value("mode", std::string()),
        fmt::format("{} {} {}", text_of(mode, "/plugin/name"), text_of(mode, "/plugin/version"),
                    code(text_of(mode, "/plugin/sha256"))));
  }
  return items;
}

void append(Items& items, Items more) {
  items.insert(items.end(), std::make_move_iterator(more.begin()),
               std::make_move_iterator(more.end()));
}

}  // namespace

std::vector<std::pair<int64_t, int64_t>> stretches(const MaskSample& sample) {
  const auto size =
      static_cast<int64_t>(std::min(sample.input_ids.size(), sample.loss_mask.size()));
  const auto is_trained = [&](int64_t i) { return sample.loss_mask[static_cast<size_t>(i)] != 0; };
  std::vector<std::pair<int64_t, int64_t>> all;
  for (int64_t begin = 0, i = 1; i <= size; ++i) {
    if (i < size && is_trained(i) == is_trained(begin)) continue;
    all.emplace_back(begin, i);
    begin = i;
  }
  return all;
}

std::string results_table(const RunHistory& history) {
  const auto training = list_of(history.last_training, "/drafts");
  const auto held_out = list_of(history.last_evaluation, "/eval/drafts");
  std::vector<std::vector<std::string>> rows;
  for (size_t i = 0; i < std::max(training.size(), held_out.size()); ++i) {
    add_result_rows(rows, entry(training, i), entry(held_out, i));
  }
  if (rows.empty()) return {};
  return table({"draft", "predicts", "training loss", "accuracy", "overlap", "held-out loss",
                "accuracy", "overlap"},
               rows) +
         fmt::format(
             "<p class=\"note\">Training: means since the last logged step, up to step {}. "
             "Held out: step {}. Accuracy: the share of positions where the draft’s first "
             "choice is the base’s. Overlap: the share of probability that both give the "
             "same tokens, which is the acceptance rate of speculative sampling. Acceptance "
             "length: tokens per pass of the base that follow from the column above, if the "
             "steps’ hits were independent.</p>\n",
             text_of(history.last_training, "/step"), text_of(history.last_evaluation, "/step"));
}

std::string decoding_table(const RunHistory& history) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& draft : list_of(history.last_decoding, "/decoding/drafts")) {
    std::string positions, ends;
    for (const auto& share : list_of(draft, "/acceptance_by_position")) {
      positions += (positions.empty() ? "" : ", ") + with_decimals(share, 3);
    }
    for (const auto& end : list_of(draft, "/interval")) {
      ends += (ends.empty() ? "" : " to ") + with_decimals(end, 3);
    }
    rows.push_back(
        {text_of(draft, "/mode"), number_of(draft, "acceptance_length", 3), ends, positions});
  }
  if (rows.empty()) return {};
  return table({"draft", "tokens per base pass", "95 %", "accepted at position 1, 2, …"}, rows) +
         fmt::format(
             "<p class=\"note\">Step {}: {} prompts continued with the likeliest tokens and a "
             "chain "
             "of the draft. 95 %: where the acceptance length lies for other prompts of the kind, "
             "by a bootstrap over the prompts.</p>\n",
             text_of(history.last_decoding, "/step"),
             text_of(history.last_decoding, "/decoding/prompts"));
}

std::string mask_view(const std::vector<MaskSample>& samples) {
  std::string html;
  for (const auto& sample : samples) html += tokens(sample);
  if (html.empty()) return html;
  const bool has_text = is_text(samples.front());
  return fmt::format(
             "<p class=\"note\">{} <mark>Marked</mark> ones are training targets; the others are "
             "only read.</p>\n",
             has_text ? "Tokens as text; point at them to see their ids." : "Token ids.") +
         html;
}

std::string configuration(const Json& record) {
  Items items;
  const auto options = record.value("options", Json::object());
  for (const auto& [name, value] : options.items()) {
    items.emplace_back(name,
                       code(escaped(value.is_string() ? value.get<std::string>() : value.dump())));
  }
  auto html = "<h3>Options</h3>\n" + definitions(items);
  for (const auto& mode : list_of(record, "/model/modes")) {
    html += fmt::format("<h3>Mode {}</h3>\n<pre>{}</pre>\n", text_of(mode, "/mode"),
                        preformatted(mode.value("config", Json::object()).dump(2)));
  }
  return html;
}

std::string provenance(const Json& record) {
  Items items = {{"Written by", text_of(record, "/written_by")},
                 {"Model", text_of(record, "/model/folder")},
                 {"Architecture", text_of(record, "/model/architecture")},
                 {"SHA-256 of the base’s config", code(text_of(record, "/model/config_sha256"))}};
  append(items, plugin_items(record));
  append(items, data_items(record, "data", "Data"));
  append(items, data_items(record, "eval_data", "Held-out data"));
  if (record.contains("/eval_prompts/file"_json_pointer)) {
    items.emplace_back("Prompts that are decoded",
                       fmt::format("{} {}", text_of(record, "/eval_prompts/file"),
                                   code(text_of(record, "/eval_prompts/sha256"))));
  }
  append(items, start_items(record));
  return definitions(items);
}

}  // namespace outrider::report
