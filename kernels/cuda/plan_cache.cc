#include "kernels/cuda/plan_cache.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>
#include <system_error>

#include "base/hash.h"

namespace sluice::cuda {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTitle = "sluice plans 3";
constexpr size_t kMostBytes = 1 << 20;
constexpr uint64_t kKey = 0x706c616e73;
constexpr DType kTypes[] = {DType::bf16, DType::f16, DType::fp8_e4m3, DType::f32};

// Takes what is before `end` off the front; false: there is none.
bool take(std::string_view* from, char end, std::string_view* part) {
  const size_t at = from->find(end);
  if (at == std::string_view::npos) return false;
  *part = from->substr(0, at);
  from->remove_prefix(at + 1);
  return true;
}

bool number(std::string_view text, int64_t least, int64_t most, int64_t* to) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *to);
  return error == std::errc() && end == text.data() + text.size() && *to >= least && *to <= most;
}

bool type_in(std::string_view* line, DType* type) {
  std::string_view name;
  if (!take(line, ' ', &name)) return false;
  const auto* known = std::find_if(std::begin(kTypes), std::end(kTypes),
                                   [&](DType t) { return name_of(t) == name; });
  if (known == std::end(kTypes)) return false;
  *type = *known;
  return true;
}

bool shape_in(std::string_view* line, PlanCache::Shape* shape) {
  std::string_view rows, columns;
  if (!type_in(line, &shape->type) || !type_in(line, &shape->out) || !take(line, ' ', &rows) ||
      !take(line, ' ', &columns))
    return false;
  return number(rows, 1, INT64_MAX, &shape->rows) && number(columns, 1, INT64_MAX, &shape->columns);
}

std::string text_of(const PlanCache::Shape& s) {
  return fmt::format("{} {} {} {}", name_of(s.type), name_of(s.out), s.rows, s.columns);
}

std::string sum_of(std::string_view text) { return fmt::format("{:016x}", hash_text(kKey, text)); }

}  // namespace

PlanCache::PlanCache(const std::string& folder, std::string machine, Log log)
    : machine_(std::move(machine)), log_(std::move(log)) {
  if (folder.empty()) return;
  // A machine's file has a name of its own, so that those who share a folder do not take turns.
  file_ = (fs::path(folder) / fmt::format("plans-{}", sum_of(machine_))).string();
  if (const absl::Status s = read(); !s.ok()) {
    own_rows_.clear(), ways_.clear();
    log_(
        fmt::format("device.plan_cache: {}: {}; products are measured anew", file_, message_of(s)));
  }
}

std::optional<int64_t> PlanCache::own_rows(const Shape& shape) const {
  const auto found = own_rows_.find(shape);
  if (found == own_rows_.end()) return std::nullopt;
  return found->second;
}

void PlanCache::put_own_rows(const Shape& shape, int64_t own_rows) {
  own_rows_[shape] = own_rows;
  changed_ = true;
}

std::optional<int> PlanCache::way(const Shape& shape, int64_t rows) const {
  const auto found = ways_.find({shape, rows});
  if (found == ways_.end()) return std::nullopt;
  return found->second;
}

void PlanCache::put_way(const Shape& shape, int64_t rows, int way) {
  ways_[{shape, rows}] = way;
  changed_ = true;
}

void PlanCache::save() {
  if (file_.empty() || !changed_) return;
  changed_ = false;
  if (const absl::Status s = write(); !s.ok())
    log_(fmt::format("device.plan_cache: {}: {}; what was measured is not kept", file_,
                     message_of(s)));
}

std::string PlanCache::text() const {
  std::string text = fmt::format("{}\n{}\n", kTitle, machine_);
  for (const auto& [shape, rows] : own_rows_)
    text += fmt::format("own {} {}\n", text_of(shape), rows);
  for (const auto& [key, way] : ways_)
    text += fmt::format("way {} {} {}\n", text_of(key.first), key.second, way);
  return text + sum_of(text) + "\n";
}

// "own bf16 bf16 4096 14336 8", "way bf16 f32 4096 14336 64 3"
bool PlanCache::entry(std::string_view line) {
  std::string_view kind, text;
  Shape shape{};
  int64_t rows = 0, way = 0;
  if (!take(&line, ' ', &kind) || !shape_in(&line, &shape)) return false;
  if (kind == "own")
    return number(line, 0, kMostRows, &rows) && own_rows_.emplace(shape, rows).second;
  return kind == "way" && take(&line, ' ', &text) && number(text, 1, kMostRows, &rows) &&
         number(line, 0, kMostWay, &way) && ways_.emplace(std::pair{shape, rows}, int(way)).second;
}

// Fails where there is a file that is not to be believed.
absl::Status PlanCache::read() {
  std::error_code error;
  const fs::file_status status = fs::status(file_, error);
  if (status.type() == fs::file_type::not_found) return absl::OkStatus();
  if (error) return unavailable("cannot be read: {}", error.message());
  if (status.type() != fs::file_type::regular) return invalid_argument("is not a file");
  std::ifstream in(file_, std::ios::binary);
  std::string text(kMostBytes + 1, '\0');
  in.read(text.data(), std::streamsize(text.size()));
  if (in.bad() || in.gcount() == 0) return invalid_argument("is empty or cannot be read");
  text.resize(size_t(in.gcount()));
  if (text.size() > kMostBytes) return invalid_argument("is larger than {} bytes", kMostBytes);

  std::string_view rest = text, title, machine;
  if (!take(&rest, '\n', &title) || title != kTitle)
    return invalid_argument("does not begin with \"{}\"", kTitle);
  if (!take(&rest, '\n', &machine)) return invalid_argument("ends early");
  if (machine != machine_)
    return invalid_argument("is of another machine ({}; this is {})", machine, machine_);
  for (std::string_view line; take(&rest, '\n', &line);) {
    if (rest.empty()) {  // the last
      const size_t before = text.size() - line.size() - 1;
      if (line != sum_of(std::string_view(text).substr(0, before))) break;
      return absl::OkStatus();
    }
    if (!entry(line)) break;
  }
  return invalid_argument("is damaged");
}

absl::Status PlanCache::write() const {
  std::error_code error;
  fs::create_directories(fs::path(file_).parent_path(), error);  // the file will tell
  const std::string part = fmt::format("{}.{}", file_, getpid());
  std::remove(part.c_str());  // of one that was killed: in a container all have the same id
  std::FILE* out = std::fopen(part.c_str(), "wbx");
  if (out == nullptr) return unavailable("cannot be written: {}", std::strerror(errno));
  const std::string all = text();
  bool good = std::fwrite(all.data(), 1, all.size(), out) == all.size() && std::fflush(out) == 0 &&
              fsync(fileno(out)) == 0;
  int failure = errno;
  good &= std::fclose(out) == 0;
  if (good && std::rename(part.c_str(), file_.c_str()) == 0) return absl::OkStatus();
  if (good) failure = errno;
  std::remove(part.c_str());
  return unavailable("cannot be written: {}", std::strerror(failure));
}

}  // namespace sluice::cuda
