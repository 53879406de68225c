#include "distributed/process_group.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>

#include "outrider/error.h"
#include "outrider/json.h"
#include "outrider/text.h"

namespace outrider {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto kBeatEvery = 1s;
constexpr auto kSilence = 30s;  // after which a process is taken for lost
constexpr auto kCollective = 45s;
constexpr auto kFarewell = 500ms;
constexpr int64_t kBucketBytes = int64_t{25} << 20;
constexpr const char* kFailure = "failure";

std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }
std::string text_of(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }

Error lost(const std::string& what) {
  return Error(ErrorCode::kProcessLost, what,
               "nothing that was saved is lost: start all processes again with the same command "
               "and --resume");
}

c10::intrusive_ptr<c10d::Store> connect(const ProcessPlace& place) {
  c10d::TCPStoreOptions options;
  options.port = place.port;
  options.isServer = place.rank == 0 && !place.launcher_serves;
  options.waitWorkers = false;
  options.timeout = kSilence;
  auto store = c10::make_intrusive<c10d::TCPStore>(place.address, options);
  return c10::make_intrusive<c10d::PrefixStore>("outrider/" + place.start, std::move(store));
}

c10::intrusive_ptr<c10d::ProcessGroupGloo> meet(const ProcessPlace& place,
                                                const c10::intrusive_ptr<c10d::Store>& store) {
  auto options = c10d::ProcessGroupGloo::Options::create();
  options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
  options->timeout = kCollective;
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, static_cast<int>(place.rank),
                                                     static_cast<int>(place.world_size), options);
}

/// Stretches of a list that hold about kBucketBytes each: [begin, end).
std::vector<std::pair<size_t, size_t>> buckets_of(const std::vector<at::Tensor>& tensors) {
  std::vector<std::pair<size_t, size_t>> buckets;
  int64_t bytes = kBucketBytes;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (bytes >= kBucketBytes) {
      buckets.emplace_back(i, i);
      bytes = 0;
    }
    bytes += static_cast<int64_t>(tensors[i].nbytes());
    buckets.back().second = i + 1;
  }
  return buckets;
}

}  // namespace

/// The store and the collectives. While it lives, a thread says in the store that the process does.
class ProcessGroup::Connection {
 public:
  explicit Connection(const ProcessPlace& place)
      : rank_(place.rank), store_(connect(place)), beats_([this] { beat(); }) {
    try {
      group_ = meet(place, store_);
    } catch (...) {
      stop();
      throw;
    }
  }
  ~Connection() { stop(); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void sum(at::Tensor tensor) {
    std::vector<at::Tensor> list = {std::move(tensor)};
    guarded([&] { group_->allreduce(list)->wait(); });
  }

  void set(const std::string& key, const std::string& text) {
    guarded([&] { store_->set(key, bytes_of(text)); });
  }

  void remove(const std::string& key) {
    guarded([&] { store_->deleteKey(key); });
  }

  /// What process `rank` sets.
  std::string await(const std::string& key, int64_t rank) {
    guarded([&] { wait_for(key, rank); });
    std::string text;
    guarded([&] { text = text_of(store_->get(key)); });
    return text;
  }

  void report_failure(const std::string& reason) {
    store_->compareSet(kFailure, {}, bytes_of(fmt::format("process {}: {}", rank_, reason)));
  }

 private:
  /// Errors of the network as errors of ours, with what another process said before it ended.
  template <class Work>
  void guarded(const Work& work) {
    try {
      work();
    } catch (const Error&) {
      throw;
    } catch (const std::exception& e) {
      if (const auto reason = failure_within(2s)) throw lost("another process ended: " + *reason);
      throw lost("the connection to another process was lost: " +
                 printable(std::string(e.what()).substr(0, std::string(e.what()).find('\n'))));
    }
  }

  void wait_for(const std::string& key, int64_t rank) {
    auto pause = 1ms;
    int64_t beats = -1;
    for (auto heard = Clock::now();; pause = std::min(pause * 2, 64ms)) {
      const auto reason = failure();
      // Asked second: a process may set the key and then fail.
      if (store_->check({key})) return;
      if (reason) throw lost("another process ended: " + *reason);
      std::this_thread::sleep_for(pause);
      if (const auto now = store_->add(beat_key(rank), 0); now != std::exchange(beats, now)) {
        heard = Clock::now();
      }
      if (Clock::now() - heard > kSilence) {
        throw lost(fmt::format("process {} does not answer any more", rank));
      }
    }
  }

  std::optional<std::string> failure() {
    if (!store_->check({kFailure})) return std::nullopt;
    return text_of(store_->get(kFailure));
  }

  /// The process whose connection broke may say why a moment later.
  std::optional<std::string> failure_within(Clock::duration duration) {
    try {
      const auto end = Clock::now() + duration;
      for (; Clock::now() < end; std::this_thread::sleep_for(100ms)) {
        if (auto reason = failure()) return reason;
      }
    } catch (const std::exception&) {
      // The store is gone too.
    }
    return std::nullopt;
  }

  static std::string beat_key(int64_t rank) { return fmt::format("beat/{}", rank); }

  void beat() {
    std::unique_lock lock(mutex_);
    try {
      do {
        store_->add(beat_key(rank_), 1);
      } while (!stopped_.wait_for(lock, kBeatEvery, [&] { return is_stopping_; }));
    } catch (const std::exception&) {
      // The store is gone: whoever needs it next notices.
    }
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      is_stopping_ = true;
    }
    stopped_.notify_all();
    if (beats_.joinable()) beats_.join();
  }

  int64_t rank_;
  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool is_stopping_ = false;
  std::thread beats_;
};

ProcessGroup::ProcessGroup(const ProcessPlace& place) : place_(place) {
  try {
    connection_ = std::make_unique<Connection>(place);
  } catch (const std::exception& e) {
    const std::string what = e.what();
    throw Error(ErrorCode::kProcessLost,
                fmt::format("process {} of {} does not find the others at {}:{}: {}", place.rank,
                            place.world_size, printable(place.address), place.port,
                            printable(what.substr(0, what.find('\n')), 300)),
                "start as many processes as WORLD_SIZE says, within half a minute: torchrun does");
  }
}

ProcessGroup::~ProcessGroup() = default;

void ProcessGroup::sum_in_place(const std::vector<at::Tensor>& tensors) {
  const at::NoGradGuard no_grad;
  for (const auto& [begin, end] : buckets_of(tensors)) {
    std::vector<at::Tensor> parts;
    for (size_t i = begin; i < end; ++i) parts.push_back(tensors[i].flatten());
    const auto flat = at::cat(parts);
    connection_->sum(flat);
    int64_t offset = 0;
    for (size_t i = begin; i < end; offset += tensors[i++].numel()) {
      tensors[i].copy_(flat.slice(0, offset, offset + tensors[i].numel()).view_as(tensors[i]));
    }
  }
}

at::Tensor ProcessGroup::sum(const at::Tensor& tensor) {
  auto result = tensor.detach().clone();
  connection_->sum(result);
  return result;
}

bool ProcessGroup::any(bool value) {
  return sum(at::full({1}, value ? 1.0 : 0.0, at::kDouble)).item<double>() > 0;
}

double ProcessGroup::of_first(double value) {
  return sum(at::full({1}, is_first() ? value : 0.0, at::kDouble)).item<double>();
}

std::vector<std::string> ProcessGroup::gather(const std::string& text) {
  const auto key = [round = round_++](int64_t rank) { return fmt::format("{}/{}", round, rank); };
  connection_->set(key(rank()), text);
  std::vector<std::string> texts;
  for (int64_t i = 0; i < size(); ++i) texts.push_back(connection_->await(key(i), i));
  return texts;
}

std::string ProcessGroup::from_first(const std::function<std::string()>& work) {
  any(false);  // all have read what was said the last time
  const auto key = [](int64_t round) { return fmt::format("first/{}", round); };
  const auto round = round_++;
  if (!is_first()) {
    const auto answer = Json::parse(connection_->await(key(round), 0));
    if (!answer.contains("error")) return answer.at("value").get<std::string>();
    throw Error(static_cast<ErrorCode>(answer.at("code").get<int>()),
                answer.at("error").get<std::string>(), answer.at("hint").get<std::string>());
  }
  try {
    auto value = work();
    connection_->remove(key(round - 1));
    connection_->set(key(round), Json({{"value", value}}).dump());
    return value;
  } catch (const Error& e) {
    connection_->set(
        key(round),
        Json({{"error", e.what()}, {"code", static_cast<int>(e.code())}, {"hint", e.hint()}})
            .dump());
    throw;
  }
}

void ProcessGroup::report_failure(const std::string& reason) noexcept {
  try {
    connection_->report_failure(reason);
    // The store may be this process's, and the others are about to read it.
    if (is_first() && !place_.launcher_serves) std::this_thread::sleep_for(kFarewell);
  } catch (const std::exception&) {
    // The others notice that this process is gone.
  }
}

}  // namespace outrider
