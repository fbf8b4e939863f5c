#!/usr/bin/env python3
"""A TCP relay with a delay: delay.py TARGET_PORT ONE_WAY_MS. Prints its own port on 127.0.0.1."""
import asyncio, sys

target, delay = int(sys.argv[1]), float(sys.argv[2]) / 1000


async def carry(reader, writer):
    loop, queue = asyncio.get_running_loop(), asyncio.Queue(4096)

    async def deliver():
        while True:
            due, part = await queue.get()
            await asyncio.sleep(max(0, due - loop.time()))
            if not part:
                break
            writer.write(part)
            await writer.drain()
        writer.close()

    delivering = asyncio.create_task(deliver())
    try:
        while part := await reader.read(65536):
            await queue.put((loop.time() + delay, part))
    except ConnectionError:
        pass
    await queue.put((loop.time() + delay, b""))
    try:
        await delivering
    except ConnectionError:
        pass


async def connected(reader, writer):
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
    await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))


async def main():
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
