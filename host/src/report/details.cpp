#include "report/details.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "report/html.h"

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

std::string number_of(const Json& json, const char* key, int decimals) {
  if (!json.contains(key) || !json[key].is_number()) return "–";
  return fmt::format("{:.{}f}", json[key].get<double>(), decimals);
}

// --- results -----------------------------------------------------------------------------------

const Json& entry(const Json& list, size_t i) {
  static const Json none = Json::object();
  return i < list.size() ? list[i] : none;
}

void add_result_rows(std::vector<std::vector<std::string>>& rows, const Json& training,
                     const Json& held_out) {
  const auto mode = text_of(training.empty() ? held_out : training, "/mode");
  const auto left = list_of(training, "/steps"), right = list_of(held_out, "/steps");
  for (size_t i = 0; i < std::max(left.size(), right.size()); ++i) {
    const auto &a = entry(left, i), &b = entry(right, i);
    rows.push_back({mode, text_of(a.empty() ? b : a, "/name"), number_of(a, "loss", 4),
                    number_of(a, "accuracy", 3), number_of(a, "overlap", 3),
                    number_of(b, "loss", 4), number_of(b, "accuracy", 3),
                    number_of(b, "overlap", 3)});
  }
  rows.push_back({mode, "<b>acceptance length</b>", "",
                  number_of(training, "expected_acceptance_length", 2),
                  number_of(training, "expected_acceptance_length_sampling", 2), "",
                  number_of(held_out, "expected_acceptance_length", 2),
                  number_of(held_out, "expected_acceptance_length_sampling", 2)});
}

// --- loss mask ---------------------------------------------------------------------------------

/// Tokens begin … end of a sample, of one kind.
std::string stretch(const MaskSample& sample, size_t begin, size_t end) {
  std::string ids;
  for (size_t i = begin; i < end; ++i) {
    ids += fmt::format("{}{}", i > begin ? " " : "", sample.input_ids[i]);
  }
  const bool trained = sample.loss_mask[begin] != 0;
  return fmt::format("<{0} title=\"tokens {1} to {2}: {3}\">{4}</{0}> ", trained ? "mark" : "span",
                     begin, end - 1, trained ? "trained on" : "not trained on", ids);
}

std::string tokens(const MaskSample& sample) {
  std::string html;
  size_t trained = 0, begin = 0;
  const size_t size = std::min(sample.input_ids.size(), sample.loss_mask.size());
  for (size_t i = 0; i < size; ++i) {
    trained += sample.loss_mask[i] != 0;
    const bool ends =
        i + 1 == size || (sample.loss_mask[i + 1] != 0) != (sample.loss_mask[begin] != 0);
    if (!ends) continue;
    html += stretch(sample, begin, i + 1);
    begin = i + 1;
  }
  const auto left = sample.length - static_cast<int64_t>(size);
  if (left > 0) html += fmt::format("<i>and {} more</i>", left);
  return fmt::format(
      "<h3>Conversation {}</h3>\n<p class=\"note\">{} tokens; of the {} shown {} are "
      "trained on</p>\n<p class=\"tokens\">{}</p>\n",
      sample.conversation, sample.length, size, trained, html);
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

std::string results_table(const RunHistory& history) {
  const auto training = list_of(history.last_training, "/drafts");
  const auto held_out = list_of(history.last_evaluation, "/eval/drafts");
  std::vector<std::vector<std::string>> rows;
  for (size_t i = 0; i < std::max(training.size(), held_out.size()); ++i) {
    add_result_rows(rows, entry(training, i), entry(held_out, i));
  }
  if (rows.empty()) return {};
  return table({"draft", "step", "training loss", "accuracy", "overlap", "held-out loss",
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

std::string mask_view(const std::vector<MaskSample>& samples) {
  std::string html;
  for (const auto& sample : samples) html += tokens(sample);
  if (html.empty()) return html;
  return "<p class=\"note\">Token ids. <mark>Marked</mark> ones are training targets; the others "
         "are "
         "only read.</p>\n" +
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
  append(items, start_items(record));
  return definitions(items);
}

}  // namespace outrider::report
