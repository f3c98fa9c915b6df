// Threads that live as long as the process: an instance takes some microseconds, a new thread more.
//
// Instances are handed out one by one and do not see each other, so that results do not depend on the number of threads.
// One call at a time has the pool; another one that comes meanwhile does its work alone.  A child after a fork has none of its
// parent's threads, so it makes its own.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include "types.hpp"

namespace core {

class Pool {
public:
    // work(i, thread) for i = 0 .. count - 1, on at most `threads` threads, this one among them.
    static void run(Index count, int threads, const std::function<void(Index, int)>& work) {
        threads = static_cast<int>(std::min<Index>(threads, count));
        if (threads > 1) {
            Pool& pool = instance();
            const std::unique_lock<std::mutex> alone(pool.busy_, std::try_to_lock);
            if (alone.owns_lock()) {
                pool.share(count, threads, work);
                return;
            }
        }
        for (Index i = 0; i < count; ++i) work(i, 0);
    }

private:
    std::mutex busy_, mutex_;
    std::condition_variable begins_, ends_;
    std::vector<std::thread> threads_;
    const std::function<void(Index, int)>* work_ = nullptr;
    std::atomic<Index> next_{0};
    Index count_ = 0;
    std::uint64_t round_ = 0;
    int wanted_ = 0, running_ = 0;
    std::exception_ptr error_;

    static std::int64_t process() {
#if defined(__unix__) || defined(__APPLE__)
        return static_cast<std::int64_t>(::getpid());
#else
        return 0;
#endif
    }

    // The pool of this process.  It is never destroyed: its threads wait until the process ends.
    static Pool& instance() {
        static std::mutex guard;
        static std::atomic<Pool*> pool{nullptr};
        static std::atomic<std::int64_t> owner{-1};
        const std::int64_t me = process();
        if (owner.load(std::memory_order_acquire) != me) {
            const std::lock_guard<std::mutex> lock(guard);
            if (owner.load(std::memory_order_relaxed) != me) {
                pool.store(std::make_unique<Pool>().release(), std::memory_order_relaxed);
                owner.store(me, std::memory_order_release);
            }
        }
        return *pool.load(std::memory_order_relaxed);
    }

    void share(Index count, int threads, const std::function<void(Index, int)>& work) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            while (static_cast<int>(threads_.size()) < threads - 1) {
                const int id = static_cast<int>(threads_.size()) + 1;
                threads_.emplace_back([this, id] { wait(id); });
            }
            work_ = &work;
            count_ = count;
            next_ = 0;
            wanted_ = running_ = threads - 1;
            ++round_;
        }
        begins_.notify_all();
        take(0, work, count);
        std::unique_lock<std::mutex> lock(mutex_);
        ends_.wait(lock, [this] { return running_ == 0; });
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    }

    // The first exception, which can only be that memory is short, is kept for the thread that made the call.
    void take(int id, const std::function<void(Index, int)>& work, Index count) {
        try {
            for (Index i = next_++; i < count; i = next_++) work(i, id);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!error_) error_ = std::current_exception();
        }
    }

    void wait(int id) {
        std::uint64_t seen = 0;
        while (true) {
            const std::function<void(Index, int)>* work = nullptr;
            Index count = 0;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                begins_.wait(lock, [&] { return round_ != seen && id <= wanted_; });
                seen = round_;
                work = work_;
                count = count_;
            }
            take(id, *work, count);
            const std::lock_guard<std::mutex> lock(mutex_);
            if (--running_ == 0) ends_.notify_one();
        }
    }

public:
    Pool() = default;
};

}  // namespace core
