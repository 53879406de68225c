#include "distributed/rendezvous.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>
#include <vector>

#include "first_line.h"
#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

using Clock = std::chrono::steady_clock;
using StorePtr = c10::intrusive_ptr<c10d::Store>;
using namespace std::chrono_literals;

constexpr auto kBeatEvery = 1s;
constexpr auto kSilence = 30s;  // after which a process is taken for lost
constexpr const char* kFailure = "failure";

std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }
std::string text_of(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }

std::string beat_key(int64_t rank) { return fmt::format("beat/{}", rank); }
std::string silence_of(int64_t rank) {
  return fmt::format("process {} does not answer any more", rank);
}

Error lost(const std::string& what) {
  return Error(ErrorCode::kProcessLost, what,
               "nothing that was saved is lost: start all processes again with the same command "
               "and --resume");
}

StorePtr connect(const ProcessPlace& place) {
  c10d::TCPStoreOptions options;
  options.port = place.port;
  options.isServer = place.rank == 0 && !place.launcher_serves;
  options.waitWorkers = false;
  options.timeout = kSilence;
  auto store = c10::make_intrusive<c10d::TCPStore>(place.address, options);
  return c10::make_intrusive<c10d::PrefixStore>("outrider/" + place.start, std::move(store));
}

std::optional<std::string> failure_in(c10d::Store& store) {
  if (!store.check({kFailure})) return std::nullopt;
  return text_of(store.get(kFailure));
}

/// The process whose connection broke may say why a moment later.
std::optional<std::string> failure_within(c10d::Store& store, Clock::duration duration) {
  try {
    const auto end = Clock::now() + duration;
    for (; Clock::now() < end; std::this_thread::sleep_for(100ms)) {
      if (auto reason = failure_in(store)) return reason;
    }
  } catch (const std::exception&) {
    // The store is gone too.
  }
  return std::nullopt;
}

/// Whether a process still beats, asked from time to time.
class Pulse {
 public:
  explicit Pulse(int64_t rank) : rank_(rank) {}

  bool is_lost(c10d::Store& store) {
    if (const auto now = store.add(beat_key(rank_), 0); now != std::exchange(beats_, now)) {
      heard_ = Clock::now();
    }
    return Clock::now() - heard_ > kSilence;
  }

 private:
  int64_t rank_, beats_ = -1;
  Clock::time_point heard_ = Clock::now();
};

}  // namespace

/// The thread that beats, and looks at the next process: who watches all would ask the store for
/// the square of their number. What it finds it tells all, in the store.
class Rendezvous::Watch {
 public:
  Watch(StorePtr store, const ProcessPlace& place)
      : store_(std::move(store)),
        rank_(place.rank),
        next_((place.rank + 1) % place.world_size),
        thread_([this] { run(); }) {}
  ~Watch() {
    {
      const std::lock_guard lock(mutex_);
      is_stopping_ = true;
    }
    stopped_.notify_all();
    thread_.join();
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  void when_lost(std::function<void()> abort) {
    const std::lock_guard lock(mutex_);
    aborts_.push_back(std::move(abort));
  }

  void stop_watching() { is_watching_ = false; }

  std::optional<std::string> loss() const {
    const std::lock_guard lock(mutex_);
    return loss_;
  }

 private:
  void run() {
    Pulse pulse(next_);
    try {
      do {
        store_->add(beat_key(rank_), 1);
        if (is_watching_ && !loss()) look(pulse);
      } while (!is_stopped_after(kBeatEvery));
    } catch (const std::exception&) {
      if (is_watching_) note("the connection to the others was lost");
    }
  }

  bool is_stopped_after(Clock::duration pause) {
    std::unique_lock lock(mutex_);
    return stopped_.wait_for(lock, pause, [&] { return is_stopping_; });
  }

  void look(Pulse& pulse) {
    if (const auto reason = failure_in(*store_)) return note("another process ended: " + *reason);
    if (!pulse.is_lost(*store_)) return;
    store_->compareSet(kFailure, {}, bytes_of(silence_of(next_)));
    note(silence_of(next_));
  }

  void note(const std::string& loss) {
    const std::lock_guard lock(mutex_);
    loss_ = loss;
    for (const auto& abort : aborts_) abort();
  }

  StorePtr store_;
  int64_t rank_, next_;
  std::atomic<bool> is_watching_ = true;
  mutable std::mutex mutex_;  // of what follows
  std::condition_variable stopped_;
  bool is_stopping_ = false;
  std::optional<std::string> loss_;
  std::vector<std::function<void()>> aborts_;
  std::thread thread_;
};

Rendezvous::Rendezvous(const ProcessPlace& place)
    : place_(place), store_(connect(place)), watch_(std::make_unique<Watch>(store_, place)) {}

Rendezvous::~Rendezvous() = default;

StorePtr Rendezvous::store(const std::string& prefix) const {
  return c10::make_intrusive<c10d::PrefixStore>(prefix, store_);
}

void Rendezvous::set(const std::string& key, const std::string& text) {
  guarded([&] { store_->set(key, bytes_of(text)); });
}

void Rendezvous::remove(const std::string& key) {
  guarded([&] { store_->deleteKey(key); });
}

std::string Rendezvous::await(const std::string& key, int64_t rank) {
  std::string text;
  guarded([&] {
    wait_for(key, rank);
    text = text_of(store_->get(key));
  });
  return text;
}

void Rendezvous::wait_for(const std::string& key, int64_t rank) {
  Pulse pulse(rank);
  for (auto pause = 1ms;; pause = std::min(pause * 2, 64ms)) {
    const auto reason = failure_in(*store_);
    // Asked second: a process may set the key and then fail.
    if (store_->check({key})) return;
    if (reason) throw lost("another process ended: " + *reason);
    std::this_thread::sleep_for(pause);
    if (pulse.is_lost(*store_)) throw lost(silence_of(rank));
  }
}

void Rendezvous::require_all() const {
  if (const auto loss = watch_->loss()) throw lost(*loss);
}

void Rendezvous::guarded(const std::function<void()>& work) {
  require_all();
  try {
    work();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    if (const auto reason = failure_within(*store_, 2s)) {
      throw lost("another process ended: " + *reason);
    }
    throw lost("the connection to another process was lost: " + printable(first_line(e.what())));
  }
}

void Rendezvous::when_lost(std::function<void()> abort) { watch_->when_lost(std::move(abort)); }
void Rendezvous::stop_watching() { watch_->stop_watching(); }

void Rendezvous::report_failure(const std::string& reason) {
  store_->compareSet(kFailure, {}, bytes_of(fmt::format("process {}: {}", place_.rank, reason)));
}

}  // namespace outrider
