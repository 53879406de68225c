#include "convert/allocation_budget.h"

#include <c10/core/CPUAllocator.h>

namespace outrider {
namespace {

thread_local AllocationBudget* innermost = nullptr;

}  // namespace

/// LibTorch's allocator for the CPU, behind the budget of the thread, if it has one.
class BudgetAllocator final : public c10::Allocator {
 public:
  explicit BudgetAllocator(c10::Allocator& allocator) : allocator_(allocator) {}

  c10::DataPtr allocate(size_t bytes) override {
    for (auto* budget = innermost; budget != nullptr; budget = budget->outer_) {
      charge(*budget, bytes);
    }
    return allocator_.allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return allocator_.raw_deleter(); }
  void copy_data(void* to, const void* from, size_t count) const override {
    allocator_.copy_data(to, from, count);
  }

  /// Allocators cannot be taken back: tensors outlive every budget.
  static void install() {
    static auto& allocator = *new BudgetAllocator(*c10::GetCPUAllocator());
    c10::SetCPUAllocator(&allocator, /*priority=*/1);
  }

 private:
  static void charge(AllocationBudget& budget, size_t bytes) {
    if (bytes > budget.left_) throw budget.refusal_;
    budget.left_ -= bytes;
  }

  c10::Allocator& allocator_;
};

AllocationBudget::AllocationBudget(size_t bytes, const Error& refusal)
    : left_(bytes), refusal_(refusal), outer_(innermost) {
  BudgetAllocator::install();
  innermost = this;
}

AllocationBudget::~AllocationBudget() { innermost = outer_; }

}  // namespace outrider
