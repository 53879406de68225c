#include "distributed/communicator.h"

#include <ATen/ATen.h>

#include <chrono>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <utility>

#include "distributed/backends.h"

namespace outrider {
namespace {

constexpr auto kCollectiveTimeout = std::chrono::seconds(45);

c10::intrusive_ptr<c10d::Backend> backend_for(at::Device device, const BackendPlace& place) {
  return device.is_cpu() ? gloo_backend(place) : nccl_backend(place);
}

}  // namespace

Communicator::Communicator(Rendezvous& rendezvous, const std::string& name, ProcessRange range,
                           at::Device device)
    : rendezvous_(rendezvous), rank_(rendezvous.place().rank - range.first), size_(range.size) {
  rendezvous_.guarded([&] {
    backend_ = backend_for(device, {rendezvous.store(name), static_cast<int>(rank_),
                                    static_cast<int>(size_), kCollectiveTimeout});
  });
  if (device.is_cpu()) return;  // Gloo notices by itself
  rendezvous_.when_lost([weak = c10::weak_intrusive_ptr<c10d::Backend>(backend_)] {
    if (const auto backend = weak.lock()) backend->abort();
  });
}

Communicator::~Communicator() {
  try {
    backend_->abort();
  } catch (const std::exception&) {
    // Whoever needs the others next is told.
  }
}

Communicator::Wait Communicator::begin(
    const std::function<c10::intrusive_ptr<c10d::Work>()>& start) {
  c10::intrusive_ptr<c10d::Work> work;
  rendezvous_.guarded([&] { work = start(); });
  return [this, work] { rendezvous_.guarded([&] { work->wait(); }); };
}

Communicator::Wait Communicator::begin_sum(std::vector<at::Tensor> tensors) {
  return begin([&] { return backend_->allreduce_coalesced(tensors); });
}

Communicator::Wait Communicator::begin_gather(at::Tensor all, at::Tensor part) {
  return begin([&] { return backend_->_allgather_base(all, part); });
}

void Communicator::exchange(at::Tensor out, at::Tensor in) {
  std::vector<int64_t> equal_parts;
  begin([&] { return backend_->alltoall_base(out, in, equal_parts, equal_parts); })();
}

}  // namespace outrider
