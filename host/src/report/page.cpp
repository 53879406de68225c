#include "report/page.h"

#include <fmt/format.h>

#include <utility>

#include "report/axis.h"
#include "report/details.h"
#include "report/html.h"

namespace outrider::report {
namespace {

constexpr const char* kTraining = "training";

std::string tile(const std::string& value, const std::string& name) {
  return fmt::format("<div><b>{}</b><span>{}</span></div>\n", value, escaped(name));
}

std::string tiles(const RunReport& report) {
  const auto& history = report.history;
  std::string html;
  const auto add = [&](const Series& series, const std::string& name, int decimals) {
    if (series.points.empty()) return;
    html += tile(fmt::format("{:.{}f}", series.points.back().value, decimals), name);
  };
  add(history.loss, "training loss", 4);
  add(history.held_out_loss, "held-out loss", 4);
  if (report.best.is_object()) {
    html += tile(fmt::format("{:.4f}", report.best.value("loss", 0.0)),
                 fmt::format("best held-out loss, step {}", report.best.value("step", int64_t{0})));
  }
  const bool is_held_out = !history.held_out.empty();
  for (const auto& draft : history.decoded) {
    add(draft.acceptance, fmt::format("tokens per base pass, {}, decoded", draft.mode), 2);
  }
  for (const auto& draft : is_held_out ? history.held_out : history.training) {
    add(draft.acceptance,
        fmt::format("expected tokens per base pass, {}, {}", draft.mode,
                    is_held_out ? "held out" : "training"),
        2);
  }
  add(history.tokens_per_second, "tokens/s", 0);
  add(history.memory, "MiB of memory at most", 0);
  return "<div class=\"tiles\">\n" + html + "</div>\n";
}

std::string heading(const RunReport& report) {
  const auto options = report.record.value("options", Json::object());
  const auto& last = report.history.last_training;
  std::string progress;
  if (last.is_object()) {
    progress = fmt::format("Step {}, {} epochs, {} s. ", last.value("step", int64_t{0}),
                           number_text(last.value("epoch", 0.0)),
                           number_text(last.value("elapsed_seconds", 0.0)));
  }
  return fmt::format(
      "<header>\n<h1>Training of {}</h1>\n<p>{}</p>\n<p>{}Written by {}.</p>\n</header>\n",
      escaped(options.value("model", std::string())), escaped(report.status), progress,
      escaped(report.record.value("written_by", std::string())));
}

std::string loss_charts(const RunReport& report) {
  const auto& history = report.history;
  Chart loss{.title = "Draft loss",
             .unit = "nats, weighted sum of steps",
             .series = {history.loss, history.held_out_loss}};
  if (report.best.is_object()) {
    loss.mark = Point{report.best.value("step", int64_t{0}), report.best.value("loss", 0.0)};
    loss.mark_name = "best";
  }
  return figure(loss) +
         figure(
             {.title = "Loss of the base", .unit = "nats per token", .series = {history.lm_loss}});
}

/// Training and held out in one chart would double its lines: a chart each, side by side.
std::string draft_charts(const std::vector<DraftHistory>& drafts, const char* what,
                         const char* where, const char* unit) {
  std::string html;
  for (const auto& draft : drafts) {
    Chart chart{.title = fmt::format("{} of {}, {}", what, draft.mode, where),
                .unit = unit,
                .series = draft.accuracies,
                .starts_at_zero = true};
    for (auto& series : chart.series) series.held_out = where != kTraining;
    html += figure(chart);
  }
  return html;
}

std::string acceptance_chart(const RunHistory& history) {
  Chart chart{.title = "Acceptance length", .unit = "tokens per base pass", .series = {}};
  const std::pair<const std::vector<DraftHistory>*, const char*> all[] = {
      {&history.training, "expected, training"},
      {&history.held_out, "expected, held out"},
      {&history.decoded, "decoded"}};
  for (const auto& [drafts, where] : all) {
    for (size_t i = 0; i < drafts->size(); ++i) {
      const auto& draft = (*drafts)[i];
      auto series = draft.acceptance;
      series.hue = i + (drafts == &history.decoded ? drafts->size() : 0);
      series.held_out = drafts != &history.training;
      series.name = fmt::format("{}, {}", draft.mode, where);
      chart.series.push_back(std::move(series));
    }
  }
  return figure(chart);
}

std::string run_charts(const RunHistory& history) {
  return figure({.title = "Learning rate",
                 .unit = "of the step",
                 .series = {history.learning_rate},
                 .starts_at_zero = true}) +
         figure({.title = "Gradient norm",
                 .unit = "before clipping",
                 .series = {history.gradient_norm},
                 .starts_at_zero = true,
                 .may_be_logarithmic = true}) +
         figure({.title = "Throughput",
                 .unit = "tokens/s",
                 .series = {history.tokens_per_second, history.trained_tokens_per_second},
                 .starts_at_zero = true}) +
         figure({.title = "Memory of the process",
                 .unit = "MiB, peak so far",
                 .series = {history.memory},
                 .starts_at_zero = true});
}

std::string charts(const RunReport& report) {
  const auto& history = report.history;
  return "<div class=\"charts\">\n" + loss_charts(report) + acceptance_chart(history) +
         draft_charts(history.training, "Accuracy", kTraining, "share of positions") +
         draft_charts(history.held_out, "Accuracy", "held out", "share of positions") +
         draft_charts(history.decoded, "Acceptance", "decoded", "share of rounds") +
         run_charts(history) + "</div>\n";
}

std::string section_if_any(const char* title, const std::string& body) {
  return body.empty() ? body : section(title, body);
}

}  // namespace

std::string page(const RunReport& report) {
  const auto options = report.record.value("options", Json::object());
  return document_start("Training of " + options.value("model", std::string())) + heading(report) +
         tiles(report) + section("Curves", charts(report)) +
         section_if_any("Results", results_table(report.history)) +
         section_if_any("Decoded prompts", decoding_table(report.history)) +
         section_if_any("What is trained on", mask_view(report.samples)) +
         section("Configuration", configuration(report.record)) +
         section("Provenance", provenance(report.record)) + document_end();
}

}  // namespace outrider::report
