"""Functions called on hostile files in processes that may crash, hang or run out of memory.

In: a picklable reader and items with a `size`. Out: one result per item, in order; a `WorkerFault`
says why an item has none. Knows neither archives nor models.

    forkserver         the process that forks workers, limits their memory and reports their ends
    forkserver_client  the main process's handle of the forkserver; one worker may read alone
    worker             one worker process: deadlines, retries, and the cause of each loss
    scheduler          the order in which threads take items, and how many threads work at once
    pool               a thread per worker process: items in, results out, in the same order
"""
