#include "kernels/simt/stream.h"

#include <utility>

#include "base/check.h"

namespace sluice::simt {

std::recursive_mutex& EmulatedStream::mutex() {
  static std::recursive_mutex all;
  return all;
}

void EmulatedStream::put(Work work) {
  std::lock_guard lock(mutex());
  (capturing_ ? captured_ : work_).push_back(std::move(work));
}

size_t EmulatedStream::mark() const {
  std::lock_guard lock(mutex());
  CHECK(!capturing_);
  return num_run_ + work_.size();
}

void EmulatedStream::run_until(size_t mark) {
  std::lock_guard lock(mutex());
  CHECK(mark <= num_run_ + work_.size());
  if (mark <= num_run_) return;
  // Taken out first: a piece that waits for another stream may come back here.
  const auto end = work_.begin() + std::ptrdiff_t(mark - num_run_);
  std::vector<Work> due(std::make_move_iterator(work_.begin()), std::make_move_iterator(end));
  work_.erase(work_.begin(), end);
  num_run_ = mark;
  for (Work& work : due) work();
}

void EmulatedStream::begin_capture() {
  std::lock_guard lock(mutex());
  CHECK(!capturing_);
  capturing_ = true;
}

bool EmulatedStream::capturing() const {
  std::lock_guard lock(mutex());
  return capturing_;
}

std::vector<EmulatedStream::Work> EmulatedStream::end_capture() {
  std::lock_guard lock(mutex());
  CHECK(capturing_);
  capturing_ = false;
  return std::exchange(captured_, {});
}

}  // namespace sluice::simt
