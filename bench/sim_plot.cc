#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "bench/sim_report.h"

namespace sluice {
namespace {

constexpr double kWidth = 760, kHeight = 460;
constexpr double kLeft = 84, kRight = 610, kTop = 44, kBottom = 396;

// Okabe and Ito's colours, which those who cannot tell red from green can tell apart.
constexpr std::array kColours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                 "#e69f00", "#56b4e9", "#000000", "#8c6d31"};

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '&') {
      out += "&amp;";
    } else {
      out += c;
    }
  }
  return out;
}

std::string label(double x, double y, std::string_view anchor, std::string_view text,
                  std::string_view more = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>\n", x, y,
                     anchor, more, escaped(text));
}

std::string rule(double x1, double y1, double x2, double y2, std::string_view colour) {
  return fmt::format(
      "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n", x1, y1, x2,
      y2, colour);
}

// Loads from 0 on a linear scale; values on a logarithmic one of whole 1-2-5 steps.
struct Scale {
  double max_load = 0, low = 1, high = 10;

  Scale(const SimMetric& m, std::span<const SimResult> results) {
    double least = INFINITY, most = 0;
    for (const SimResult& r : results) {
      max_load = std::max(max_load, r.load);
      if (const double v = m.value(r); v > 0) least = std::min(least, v), most = std::max(most, v);
    }
    if (max_load <= 0) max_load = 1;
    if (most > 0) {
      low = std::pow(10, std::floor(std::log10(least)));
      high = std::pow(10, std::ceil(std::log10(most)));
      for (const double f : {2.0, 5.0}) {
        if (const double up = std::pow(10, std::floor(std::log10(least))) * f; up <= least)
          low = up;
      }
      for (const double f : {5.0, 2.0}) {
        if (const double down = std::pow(10, std::floor(std::log10(most))) * f; down >= most)
          high = down;
      }
      if (high <= low) high = low * 10;
    }
  }
  double x(double load) const { return kLeft + (kRight - kLeft) * load / max_load; }
  double y(double value) const {
    const double share = std::log(std::max(value, low) / low) / std::log(high / low);
    return kBottom - (kBottom - kTop) * share;
  }
};

std::string axes(const Scale& s, const SimHeader& h, const SimMetric& m) {
  std::string out;
  for (double decade = std::pow(10, std::floor(std::log10(s.low) + 1e-9)); decade <= s.high * 1.001;
       decade *= 10) {
    for (const double f : {1.0, 2.0, 5.0}) {
      const double v = decade * f;
      if (v < s.low * 0.999 || v > s.high * 1.001) continue;
      out += rule(kLeft, s.y(v), kRight, s.y(v), "#dddddd");
      out += label(kLeft - 8, s.y(v) + 4, "end", fmt::format("{:g}", v));
    }
  }
  const double rough = s.max_load / 6, ten = std::pow(10, std::floor(std::log10(rough)));
  const double step = ten * (rough / ten > 5 ? 10 : rough / ten > 2 ? 5 : rough / ten > 1 ? 2 : 1);
  for (int i = 0; i * step <= s.max_load * 1.001; ++i) {
    const double v = i * step;
    out += rule(s.x(v), kBottom, s.x(v), kBottom + 5, "#333333");
    out += label(s.x(v), kBottom + 20, "middle", fmt::format("{:g}", v));
  }
  out += rule(kLeft, kBottom, kRight, kBottom, "#333333");
  out += rule(kLeft, kTop, kLeft, kBottom, "#333333");
  out += label((kLeft + kRight) / 2, kBottom + 44, "middle",
               h.load == "clients" ? "clients" : "requests per second");
  out += label(22, (kTop + kBottom) / 2, "middle", fmt::format("{} ({})", m.label, m.unit),
               fmt::format(" transform=\"rotate(-90 22 {:.1f})\"", (kTop + kBottom) / 2));
  return out;
}

std::string line(const Scale& s, const SimMetric& m, std::span<const SimResult> points,
                 size_t number) {
  const std::string_view colour = kColours[number % kColours.size()];
  std::string path, marks;
  for (const SimResult& r : points) {
    const double v = m.value(r);
    if (!(v > 0)) continue;
    path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", s.x(r.load), s.y(v));
    marks += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", s.x(r.load),
                         s.y(v), colour);
  }
  const double y = kTop + 10 + 20 * double(number);
  return fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n{}",
                     path, colour, marks) +
         fmt::format(
             "<line x1=\"{0}\" y1=\"{1:.1f}\" x2=\"{2}\" y2=\"{1:.1f}\" stroke=\"{3}\" "
             "stroke-width=\"3\"/>\n",
             kRight + 20, y, kRight + 44, colour) +
         label(kRight + 52, y + 4, "start", points[0].preset);
}

}  // namespace

std::string sim_plot(const SimHeader& h, const SimMetric& m, std::span<const SimResult> results) {
  const Scale scale(m, results);
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} "
      "{1}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{0}\" height=\"{1}\" "
      "fill=\"white\"/>\n",
      kWidth, kHeight);
  out += label(kLeft, 24, "start", fmt::format("{} on {}: {}", h.workload, h.cost, m.label),
               " font-size=\"15\"");
  out += axes(scale, h, m);
  size_t number = 0;
  for (size_t i = 0; i < results.size(); ++number) {
    size_t end = i;
    while (end < results.size() && results[end].preset == results[i].preset) ++end;
    out += line(scale, m, results.subspan(i, end - i), number);
    i = end;
  }
  return out + "</svg>\n";
}

}  // namespace sluice
