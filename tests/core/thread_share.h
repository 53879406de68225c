#pragma once

#include <ATen/ATen.h>

#include <barrier>
#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "outrider/ops/sequence_share.h"

namespace outrider::testing {

/// Threads of one process that exchange as processes do which share sequences.
class ThreadShares {
 public:
  explicit ThreadShares(int64_t count) : slots_(static_cast<size_t>(count)), meet_(count) {}

  /// `work` in each thread with its share. Throws what the first thread that failed threw.
  void run(const std::function<void(const std::shared_ptr<SequenceShare>&)>& work) {
    std::vector<std::exception_ptr> failures(slots_.size());
    std::vector<std::thread> threads;
    for (size_t i = 0; i < slots_.size(); ++i) {
      threads.emplace_back([&, i] {
        try {
          work(std::make_shared<Share>(*this, static_cast<int64_t>(i)));
        } catch (...) {
          failures[i] = std::current_exception();
        }
        meet_.arrive_and_drop();
      });
    }
    for (auto& thread : threads) thread.join();
    for (const auto& failure : failures) {
      if (failure) std::rethrow_exception(failure);
    }
  }

 private:
  class Share : public SequenceShare {
   public:
    Share(ThreadShares& all, int64_t index) : all_(all), index_(index) {}

    int64_t count() const override { return static_cast<int64_t>(all_.slots_.size()); }
    int64_t index() const override { return index_; }

    at::Tensor exchange(const at::Tensor& parts) override {
      all_.slots_[static_cast<size_t>(index_)] = parts;
      all_.meet_.arrive_and_wait();
      std::vector<at::Tensor> received;
      for (const auto& slot : all_.slots_) received.push_back(slot[index_]);
      auto result = at::stack(received);
      all_.meet_.arrive_and_wait();
      return result;
    }

   private:
    ThreadShares& all_;
    int64_t index_;
  };

  std::vector<at::Tensor> slots_;
  std::barrier<> meet_;
};

/// What TrainBatch::sum_over_processes does, over those that share sequences.
inline std::function<at::Tensor(const at::Tensor&)> sum_over(
    const std::shared_ptr<SequenceShare>& share) {
  return [share](const at::Tensor& values) {
    return share->exchange(at::stack(std::vector<at::Tensor>(share->count(), values))).sum(0);
  };
}

}  // namespace outrider::testing
