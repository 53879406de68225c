#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <set>
#include <sstream>

#include "convert/allocation_budget.h"
#include "data/batch_order.h"
#include "json_differences.h"
#include "machine/disk_room.h"
#include "machine/memory.h"
#include "outrider/files/json_file.h"
#include "tiny_training.h"
#include "trainer/finite_watch.h"
#include "trainer/metrics_log.h"
#include "trainer/patient_write.h"
#include "trainer/progress.h"
#include "trainer/run_room.h"
#include "trainer/schedule.h"
#include "trainer/train_options.h"
#include "trainer/training_state.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;
using testing::failure;
using testing::TemporaryFolder;

TEST_CASE("learning rates are those of transformers' get_scheduler") {
  using List = std::vector<double>;
  const auto factors = [](const char* type, int64_t warmup, int64_t total) {
    List list;
    for (int64_t step = 0; step < total + 2; ++step) {
      list.push_back(lr_factor(type, step, warmup, total));
    }
    return list;
  };
  const double third = 0.3333333333333333, two_thirds = 0.6666666666666666;
  CHECK(factors("linear", 0, 5) == List{1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0});
  CHECK(factors("linear", 3, 8) == List{0.0, third, two_thirds, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0});
  CHECK(factors("cosine", 3, 8) == List{0.0, third, two_thirds, 1.0, 0.9045084971874737,
                                        0.6545084971874737, 0.34549150281252633,
                                        0.09549150281252633, 0.0, 0.09549150281252622});
  CHECK(factors("constant", 3, 5) == List{0.0, third, two_thirds, 1.0, 1.0, 1.0, 1.0});
}

TEST_CASE("a schedule warms up by ratio and ends with the time, whichever limit is nearer") {
  const LrSchedule by_ratio{"linear", 0, 10, 0.25, 0};  // 3 warm-up steps, rounded up
  CHECK(by_ratio.factor(1, 1e9) == lr_factor("linear", 1, 3, 10));
  CHECK(by_ratio.factor(7, 0) == lr_factor("linear", 7, 3, 10));
  const LrSchedule by_time{"linear", 0, 0, 0.1, 200};
  CHECK(by_time.factor(3, 10) == doctest::Approx(0.5));
  CHECK(by_time.factor(3, 50) == doctest::Approx(0.75));
  CHECK(by_time.factor(3, 210) == 0.0);
  const LrSchedule counted{"cosine", 4, 0, 0, 200};
  CHECK(counted.factor(1, 1) == doctest::Approx(0.25));
  CHECK(counted.factor(9, 100) == doctest::Approx(0.5));
  const LrSchedule both{"linear", 0, 10, 0, 200};
  CHECK(both.factor(5, 20) == doctest::Approx(0.5));
  CHECK(both.factor(5, 180) == doctest::Approx(0.1));
}

TEST_CASE("the planned steps are those of the Hugging Face trainer") {
  TrainOptions options;
  options.gradient_accumulation_steps = 4;
  options.num_train_epochs = 2.5;
  CHECK(planned_steps(options, 9) == 8);  // 3 updates per epoch, 7.5 rounded up
  options.max_seconds = 10;
  CHECK(planned_steps(options, 9) == 0);
  options.max_steps = 5;
  CHECK(planned_steps(options, 9) == 5);
}

TEST_CASE("impossible options are named together") {
  TrainOptions options;
  options.output = "run";
  check_options(options);
  options.per_device_train_batch_size = 0;
  options.adam_beta2 = 1.0;
  options.lr_scheduler_type = "cosin";
  options.eval_steps = 5;
  options.save_minutes = -0.5;
  options.resume_from = "checkpoint-3";
  const auto text = failure(ErrorCode::kInvalidArgument, [&] { check_options(options); });
  CHECK_CONTAINS(text, "per_device_train_batch_size is 0, accepted is 1 or more");
  CHECK_CONTAINS(text, "adam_beta2 is 1, accepted is at least 0 and below 1");
  CHECK_CONTAINS(text, "lr_scheduler_type 'cosin' is unknown, did you mean 'cosine'");
  CHECK_CONTAINS(text, "eval_steps needs eval_data");
  CHECK_CONTAINS(text, "save_minutes is -0.5, accepted is 0 or more");
  CHECK_CONTAINS(text, "resume_from needs resume");
}

BatchOrder tiny_order(int64_t count, int64_t batch_size, uint64_t seed) {
  std::vector<int64_t> conversations(count), lengths(count);
  for (int64_t i = 0; i < count; ++i) {
    conversations[i] = 100 + i;
    lengths[i] = i * 37 % 101;
  }
  return BatchOrder(unpacked(conversations, lengths), batch_size, seed);
}

TEST_CASE("an epoch has every conversation once, similar lengths together") {
  const auto order = tiny_order(1003, 4, 1);
  const auto batches = order.epoch(0);
  CHECK(static_cast<int64_t>(batches.size()) == order.batches_per_epoch());
  std::set<int64_t> seen;
  int64_t spread = 0;
  for (const auto& batch : batches) {
    int64_t low = 101, high = 0;
    for (const auto& row : batch) {
      const int64_t i = row.front();
      seen.insert(i);
      low = std::min(low, (i - 100) * 37 % 101);
      high = std::max(high, (i - 100) * 37 % 101);
    }
    spread += high - low;
  }
  CHECK(seen.size() == 1003);
  CHECK(*seen.begin() == 100);
  CHECK(*seen.rbegin() == 1102);
  // Four random lengths of 0 to 100 are 60 apart on average.
  CHECK(static_cast<double>(spread) / static_cast<double>(batches.size()) < 4.0);
}

TEST_CASE("the order is fixed by seed and epoch, on every platform") {
  CHECK(tiny_order(64, 8, 5).epoch(3) == tiny_order(64, 8, 5).epoch(3));
  CHECK(tiny_order(64, 8, 5).epoch(3) != tiny_order(64, 8, 6).epoch(3));
  CHECK(tiny_order(64, 8, 5).epoch(3) != tiny_order(64, 8, 5).epoch(4));
  // From an independent implementation of the engine, the shuffle and the cut.
  CHECK(tiny_order(7, 3, 42).epoch(0) ==
        std::vector<Batch>{{{100}}, {{101}, {106}, {103}}, {{105}, {102}, {104}}});
  CHECK(tiny_order(1003, 4, 7).epoch(2).front() == Batch{{815}, {138}, {542}, {269}});
}

TEST_CASE("a cursor continues from any position and stops at the end of an epoch") {
  const auto order = tiny_order(10, 2, 3);  // 5 batches per epoch
  BatchCursor whole(order, {});
  std::vector<std::vector<Batch>> steps;
  std::vector<DataPosition> positions;
  for (int i = 0; i < 7; ++i) {
    positions.push_back(whole.position());
    steps.push_back(whole.next(2));
  }
  CHECK(steps[2].size() == 1);
  CHECK(positions[3] == DataPosition{1, 0});
  const auto second_epoch = order.epoch(1);
  CHECK(steps[3] == std::vector(second_epoch.begin(), second_epoch.begin() + 2));
  CHECK(whole.epochs() == doctest::Approx(2.4));
  for (size_t i = 0; i < positions.size(); ++i) {
    BatchCursor resumed(order, positions[i]);
    for (size_t k = i; k < steps.size(); ++k) CHECK(resumed.next(2) == steps[k]);
  }
}

TEST_CASE("packing puts each conversation whole into one row, and leaves little room") {
  std::vector<int64_t> conversations, lengths;
  std::mt19937_64 random(3);
  for (int64_t i = 0; i < 2000; ++i) {
    conversations.push_back(100 + i);
    lengths.push_back(1 + static_cast<int64_t>(random() % 300));
  }
  const auto [rows, used] = packed(conversations, lengths, 1024);
  std::set<int64_t> seen;
  int64_t total = 0;
  REQUIRE(rows.size() == used.size());
  for (size_t r = 0; r < rows.size(); ++r) {
    int64_t sum = 0;
    for (const int64_t conversation : rows[r]) {
      CHECK(seen.insert(conversation).second);
      sum += lengths[static_cast<size_t>(conversation - 100)];
    }
    CHECK(sum == used[r]);
    CHECK(sum <= 1024);
    total += sum;
  }
  CHECK(seen.size() == 2000);
  CHECK(static_cast<int64_t>(rows.size()) <= (total + 1023) / 1024 + 1);
  // By hand: 5 and 3 fill a row of 8, 4 and 4 another, 7 and 1 a third.
  CHECK(packed({0, 1, 2, 3, 4, 5}, {3, 4, 7, 5, 1, 4}, 8).rows == Batch{{2, 4}, {3, 0}, {1, 5}});
}

TEST_CASE("a value that is not finite is reported with its step and conversations") {
  FiniteWatch watch("shards");
  const auto one = at::ones({}), infinite = one / 0.0;
  watch.remember({4, {1, 2}, one, one});
  watch.check();
  watch.remember({5, {3, 4}, one, one});
  watch.remember({6, {5, 9}, one, infinite});
  watch.remember({7, {6, 8}, infinite, infinite});
  const auto text = failure(ErrorCode::kNonFinite, [&] { watch.check(); });
  CHECK_CONTAINS(text,
                 "step 6: loss 1, gradient norm inf; the batch held conversations 5, 9 of 'shards' "
                 "(counted from 0)");
  watch.check();
}

TEST_CASE("a watch asks whose fault a bad step is") {
  std::vector<int64_t> asked;
  FiniteWatch watch("shards", [&](const auto& conversations) {
    asked = conversations;
    return std::optional(Error(ErrorCode::kNonFinite, "the base is it", "take another"));
  });
  const auto one = at::ones({});
  watch.remember({1, {4}, one, one});
  watch.check();
  CHECK(asked.empty());
  watch.remember({2, {8, 6}, one / 0.0, one});
  const auto text = failure(ErrorCode::kNonFinite, [&] { watch.check(); });
  CHECK(asked == std::vector<int64_t>{8, 6});
  CHECK_CONTAINS(text,
                 "step 2: loss inf, gradient norm 1; the batch held conversations 8, 6 of "
                 "'shards' (counted from 0): the base is it\ntake another");
}

TEST_CASE("a training state is read as it was written") {
  const TemporaryFolder folder;
  const TrainingState state{12,
                            {3, 45},
                            6.5,
                            {{"seed", 18446744073709551615u}, {"learning_rate", 1e-4}},
                            {{"threads", 2}},
                            {{"exp_avg.w", at::arange(6, at::kFloat)}}};
  state.write(folder.path());
  const auto read = TrainingState::read(folder.path());
  CHECK(read.step == 12);
  CHECK(read.position == DataPosition{3, 45});
  CHECK(read.elapsed_seconds == 6.5);
  CHECK(differences(read.options, state.options).empty());
  CHECK(read.environment == state.environment);
  CHECK(at::equal(read.tensors.at("exp_avg.w"), at::arange(6, at::kFloat)));
}

TEST_CASE("a damaged training state is refused") {
  const TemporaryFolder folder;
  TrainingState().write(folder.path());
  const auto file = folder.path() / "training_state.json";
  const auto good = read_json_file(file);
  const auto refusal = [&](ErrorCode code, const char* key, const Json& value) {
    auto bad = good;
    bad[key] = value;
    write_json_file(file, bad);
    return failure(code, [&] { TrainingState::read(folder.path()); });
  };
  CHECK_CONTAINS(refusal(ErrorCode::kInvalidFile, "step", -1), "'step' is missing or of a wrong");
  CHECK_CONTAINS(refusal(ErrorCode::kInvalidFile, "position", 3), "'position' is missing or");
  CHECK_CONTAINS(refusal(ErrorCode::kIncompatibleCheckpoint, "format_version", 2),
                 "format_version 2, this program reads 1");
}

TEST_CASE("every kind of damage to a checkpoint is found") {
  const TemporaryFolder run;
  const auto folder = run.path() / "checkpoint-7";
  const auto write = [&] {
    fs::remove_all(folder);
    fs::create_directory(folder);
    std::ofstream(folder / "config.json") << "{}";
    std::ofstream(folder / "tokenizer.json") << "{}";
    write_tensors(folder / "model.safetensors", {{"w", at::arange(50, at::kFloat)}});
    TrainingState{.step = 7, .tensors = {{"m", at::ones({3})}}}.write(folder);
  };
  const auto only_problem = [&] {
    const auto problems = damages(folder);
    REQUIRE(problems.size() == 1);
    return problems.front();
  };
  write();
  CHECK(damages(folder).empty());
  std::ofstream(folder / "tokenizer.json") << "changed";  // nothing is resumed from it
  CHECK(damages(folder).empty());
  fs::resize_file(folder / "model.safetensors", 100);
  CHECK_CONTAINS(only_problem(), "model.safetensors (100 bytes) is not as it was written");
  write();
  fs::remove(folder / "training_state.safetensors");
  CHECK(only_problem() == "training_state.safetensors is missing");
  fs::remove(folder / "config.json");
  CHECK(damages(folder) == std::vector<std::string>{"config.json is missing",
                                                    "training_state.safetensors is missing"});
  write();
  std::ofstream(folder / "training_state.json") << "{\"step\": 7,";
  CHECK_CONTAINS(only_problem(), "training_state.json");
  fs::remove(folder / "training_state.json");
  CHECK(only_problem() == "training_state.json is missing");
  write();
  auto json = read_json_file(folder / "training_state.json");
  json["step"] = 8;
  write_json_file(folder / "training_state.json", json);
  CHECK(only_problem() == "training_state.json is not as it was written");
}

TEST_CASE("a checkpoint without recorded hashes is opened to see whether it is whole") {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "config.json") << "{}";
  write_tensors(folder.path() / "model.safetensors", {{"w", at::arange(50, at::kFloat)}});
  TrainingState().write(folder.path());
  const auto file = folder.path() / "training_state.json";
  auto json = read_json_file(file);
  json.erase("files");
  json.erase("sha256");
  write_json_file(file, json);
  CHECK(damages(folder.path()).empty());
  fs::resize_file(folder.path() / "model.safetensors", 150);
  CHECK(damages(folder.path()).size() == 1);
}

TEST_CASE("differences name what changed") {
  CHECK(differences({{"seed", 1}, {"lr", 0.5}}, {{"seed", 42}, {"lr", 0.5}, {"extra", "x"}}) ==
        std::vector<std::string>{"extra is not given, was \"x\"", "seed is 1, was 42"});
}

TEST_CASE("only complete checkpoints count, and the oldest are deleted") {
  const TemporaryFolder run;
  CHECK(checkpoint_folders(run.path()).empty());
  for (const int64_t step : {9, 10, 100}) {
    fs::create_directory(checkpoint_path(run.path(), step));
    TrainingState().write(checkpoint_path(run.path(), step));
  }
  fs::create_directory(run.path() / "checkpoint-999");
  fs::create_directory(run.path() / "checkpoint-12x");
  TrainingState().write(run.path() / "checkpoint-12x");
  CHECK(checkpoint_folders(run.path()).back() == run.path() / "checkpoint-999");
  CHECK(checkpoints(run.path()).size() == 3);
  remove_old_checkpoints(run.path(), 0);
  CHECK(checkpoints(run.path()).size() == 3);
  remove_old_checkpoints(run.path(), 2);
  CHECK(checkpoints(run.path()) ==
        std::vector<fs::path>{run.path() / "checkpoint-10", run.path() / "checkpoint-100"});
  CHECK_FALSE(fs::exists(run.path() / "checkpoint-9"));
  CHECK(fs::exists(run.path() / "checkpoint-999"));
}

TEST_CASE("metrics are cut back to the step that a run resumes at") {
  const TemporaryFolder run;
  const auto file = run.path() / MetricsLog::kFileName;
  std::ofstream(file) << "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":2,\"ev";
  MetricsLog(run.path(), 2).append({{"step", 4}});
  std::stringstream content;
  content << std::ifstream(file).rdbuf();
  CHECK(content.str() == "{\"step\":1}\n{\"step\":2}\n{\"step\":4}\n");
}

TEST_CASE("lines that the disk did not take are written with the next") {
  const TemporaryFolder run;
  MetricsLog log(run.path(), 0);
  CHECK(log.append({{"step", 1}}));
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  const auto ignored = signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 15;  // between the first line and the second
  setrlimit(RLIMIT_FSIZE, &small);
  const bool second = log.append({{"step", 2}});
  const auto text = failure(ErrorCode::kWriteFailed, [&] { log.flush(); });
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, ignored);
  CHECK_FALSE(second);
  CHECK_CONTAINS(text, "metrics.jsonl': cannot be written");
  CHECK(log.append({{"step", 3}}));
  std::stringstream content;
  content << std::ifstream(run.path() / MetricsLog::kFileName).rdbuf();
  CHECK(content.str() == "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
}

TEST_CASE("work of known length tells its share and its end") {
  std::stringstream plain;
  ProgressLine line(plain, 0);
  const WorkProgress::Clock::time_point start{};
  WorkProgress work(line, "evaluation at step 8: conversation", start);
  const auto after = [&](int64_t seconds) { return start + std::chrono::seconds(seconds); };
  work.update(1, 40, 100, after(1));
  CHECK(plain.str().empty());
  work.update(4, 40, 500, after(5));
  const std::string first =
      "evaluation at step 8: conversation 4/40  10%  100 tokens/s  ETA 0:45\n";
  CHECK(plain.str() == first);
  work.update(8, 40, 1500, after(14));
  CHECK(plain.str() == first);
  work.update(20, 40, 40000, after(20));
  CHECK(plain.str() ==
        first + "evaluation at step 8: conversation 20/40  50%  2.0k tokens/s  ETA 0:20\n");
}

TEST_CASE("writing waits for room, for a time, and not where nobody wants that") {
  int tries = 0, waits = 0;
  const auto fails_until = [&](int success) {
    return [&tries, success] {
      if (++tries < success) throw Error(ErrorCode::kWriteFailed, "full " + std::to_string(tries));
    };
  };
  Patience patience{.seconds = 60,
                    .has_room = [] { return true; },
                    .stop = [] { return false; },
                    .on_wait =
                        [&](const Error& e) {
                          ++waits;
                          CHECK(std::string(e.what()) == "full 1");
                        }};
  write_patiently(fails_until(1), patience);
  CHECK(waits == 0);
  tries = 0;
  write_patiently(fails_until(3), patience);
  CHECK(waits == 1);
  CHECK(tries == 3);
  tries = 0;
  patience.stop = [] { return true; };
  CHECK_CONTAINS(
      failure(ErrorCode::kWriteFailed, [&] { write_patiently(fails_until(9), patience); }),
      "full 1");
  patience.seconds = 0;
  patience.stop = [] { return false; };
  tries = 0;
  failure(ErrorCode::kWriteFailed, [&] { write_patiently(fails_until(9), patience); });
  CHECK(tries == 1);
  CHECK_CONTAINS(failure(ErrorCode::kInvalidData,
                         [&] {
                           write_patiently([] { throw Error(ErrorCode::kInvalidData, "other"); },
                                           patience);
                         }),
                 "other");
}

TEST_CASE("a run that the disk has no room for is refused with its sizes") {
  const TemporaryFolder folder;
  TrainOptions options;
  options.output = folder.path() / "not" / "yet";
  const uint64_t petabyte = 1'000'000'000'000'000;
  const auto refusal = [&](const RunSizes& sizes, int64_t steps, int64_t step) {
    return failure(ErrorCode::kWriteFailed, [&] { require_room(options, sizes, steps, step); });
  };
  require_room(options, {.model = 1000, .draft = 10, .optimizer = 20}, 100, 0);
  auto text = refusal({.model = 3 * petabyte, .draft = 5'000'000, .optimizer = 10'000'000}, 100, 0);
  CHECK_CONTAINS(text, "not/yet': the run writes 3030000.0 GB, its disk has ");
  CHECK_CONTAINS(text, "free: the final model 3000000.0 GB\n");
  CHECK_CONTAINS(text, "give --save draft, which leaves the base out: 5.3 MB in all");
  options.save_steps = 10;
  options.eval_data = "held-out";
  text = refusal({.model = petabyte, .optimizer = 2 * petabyte}, 100, 0);
  // The final model, the best, and two checkpoints with a third while the first is replaced.
  CHECK_CONTAINS(text, "the run writes 11110000.0 GB");
  CHECK_CONTAINS(text,
                 "3 checkpoints of 3000000.0 GB (1000000.0 GB of weights, 2000000.0 GB of "
                 "optimizer state), one of them while the oldest is replaced");
  CHECK(text.find("--save draft") == text.npos);
  CHECK_CONTAINS(text, "a smaller --save-total-limit");
  CHECK_CONTAINS(refusal({.model = petabyte, .optimizer = 2 * petabyte}, 100, 85),
                 "1 checkpoint of 3000000.0 GB");
  CHECK_FALSE(has_room_for_checkpoint(options, {.model = petabyte}));
  CHECK(has_room_for_checkpoint(options, {.model = 1000}));
  text = failure(ErrorCode::kWriteFailed,
                 [&] { require_free(folder.path(), "the model", petabyte, "another disk"); });
  CHECK_CONTAINS(text, "': the model takes 1010000.0 GB, its disk has ");
  CHECK_CONTAINS(text, " free\nanother disk");
  require_free(folder.path() / "deeper" / "still", "the model", 1000, "");
  CHECK(format_bytes(950) == "950 B");
  CHECK(format_bytes(1'234'567) == "1.2 MB");
}

void write_text(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

TEST_CASE("memory is what the machine has left, or less where a control group allows less") {
  const TemporaryFolder folder;
  const auto& root = folder.path();
  const size_t mib = 1 << 20;
  write_text(root / "proc/meminfo",
             "MemTotal: 900000 kB\nMemFree: 10 kB\nMemAvailable: 819200 kB\n");
  CHECK(available_memory(root) == 800 * mib);
  write_text(root / "proc/self/cgroup", "0::/outer/inner\n");
  const auto group = root / "sys/fs/cgroup/outer";
  write_text(group / "memory.max", std::to_string(700 * mib));
  write_text(group / "memory.current", std::to_string(300 * mib));
  write_text(group / "memory.stat", "anon 5\ninactive_file 104857600\nactive_file 52428800\n");
  write_text(group / "inner/memory.max", "max\n");
  write_text(group / "inner/memory.current", "5\n");
  CHECK(available_memory(root) == (700 - 300 + 100 + 50) * mib);
  write_text(group / "inner/memory.max", std::to_string(64 * mib));
  write_text(group / "inner/memory.current", std::to_string(65 * mib));
  CHECK(available_memory(root) == 0);

  fs::remove_all(root / "sys");
  write_text(root / "proc/self/cgroup", "4:memory:/box\n3:cpu:/\n0::/\n");
  const auto old = root / "sys/fs/cgroup/memory/box";
  write_text(old / "memory.limit_in_bytes", std::to_string(500 * mib));
  write_text(old / "memory.usage_in_bytes", std::to_string(200 * mib));
  write_text(old / "memory.stat", "inactive_file 7\ntotal_inactive_file 10485760\n");
  CHECK(available_memory(root) == 310 * mib);
}

TEST_CASE("progress is a line per logged step, or one line redrawn on a terminal") {
  ProgressReport report;
  report.step = 120;
  report.total_steps = 1000;
  report.share = 0.12;
  report.loss = 2.34567;
  report.held_out_loss = 2.5;
  report.tokens_per_second = 12345;
  report.eta_seconds = 3607;
  const std::string line =
      "step 120/1000  12%  loss 2.3457  held out 2.5000  12.3k tokens/s  ETA 1:00:07";
  CHECK(format_progress(report) == line);

  std::stringstream plain, terminal, narrow;
  ProgressLine on_file(plain, 0), on_terminal(terminal, 97), on_narrow(narrow, 20);
  on_file.update(report);
  CHECK(plain.str().empty());
  on_file.logged(report);
  CHECK(plain.str() == line + "\n");
  on_terminal.logged(report);
  on_terminal.note("x");
  CHECK(terminal.str() == "\r\x1b[K[#...............] " + line + "\r\x1b[Kx\n");
  on_narrow.logged(report);
  CHECK(narrow.str() == "\r\x1b[K" + line.substr(0, 19));
  CHECK(format_duration(187) == "3:07");
  CHECK(format_count(950) == "950");
  CHECK(format_count(2.5e6) == "2.5M");
}

}  // namespace
}  // namespace outrider
