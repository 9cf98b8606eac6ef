/// edit GRAPH GUIDE.ppm OUT.ppm [T0 STEPS SEED]
///
/// GRAPH is the folder graph/ of a bundle that `sdedit extend --graph` wrote. Pictures are PPM files of 8 bits (P6).
#include "selftest.hpp"
#include <chrono>
#include <fstream>
#include <iostream>
#include <limits>

/// The next number of a PPM file's head; comments before it are passed over.
std::int64_t number(std::istream& file) {
    while ((file >> std::ws).peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    std::int64_t value = 0;
    file >> value;
    return value;
}

/// The bytes of a PPM file, and their shape.
std::pair<std::string, Shape> read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    const bool magic = file.get() == 'P' && file.get() == '6';
    const std::int64_t width = number(file), height = number(file), limit = number(file);
    file.get();
    const std::string pixels{std::istreambuf_iterator<char>(file), {}};
    const bool fits = width > 0 && height > 0 && height <= std::int64_t(pixels.size()) / 3 / width;
    if (!magic || limit != 255 || !fits || std::int64_t(pixels.size()) != height * width * 3)
        throw std::runtime_error(path + " is no PPM file of 8 bits (P6 ... 255)");
    return {pixels, {height, width, 3}};
}

void edit(const std::string& graph, const std::string& source, const std::string& target, const Json& settings) {
    const Ort::Env env;
    Ort::Session session(env, (graph + "/edit.onnx").c_str(), Ort::SessionOptions());
    const Json test = Json::parse(std::ifstream(graph + "/selftest.json"));
    if (const auto differ = self_test(session, test))
        std::cerr << "the self-test's edit differs in " << differ << " bytes: this build rounds otherwise\n";
    const auto [guide, shape] = read_ppm(source);
    const auto start = std::chrono::steady_clock::now();
    const auto outputs = run_edit(session, test["inputs"], guide, shape, 255, settings);
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
    std::cout << settings["steps"].get<std::string>() << " steps: " << std::llround(spent.count()) << " ms\n";
    std::ofstream file(target, std::ios::binary);
    file << "P6\n" << shape[1] << " " << shape[0] << "\n255\n" << bytes_of<std::uint8_t>(outputs[0]) << std::flush;
    if (!file) throw std::runtime_error(target + " cannot be written");
}

int main(int count, char** arguments) try {
    if (count < 4) {
        std::cerr << "usage: edit GRAPH GUIDE.ppm OUT.ppm [T0 STEPS SEED]\n";
        return 2;
    }
    const auto told = [&](int at, const char* usual) { return count > at ? arguments[at] : usual; };
    const Json settings = {{"t0", told(4, "0.5")}, {"steps", told(5, "25")}, {"seed", told(6, "0")}};
    edit(arguments[1], arguments[2], arguments[3], settings);
} catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
}
