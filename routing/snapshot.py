"""All configuration in memory, one consistent state of it, never older than half a second.

Every change of configuration bumps an epoch in the database. A process looks at that one number at most
twice a second and reads everything again, in one statement, when it moved. A call takes one snapshot and
keeps it to its end.

    load()       the state now
    current()    for synchronous code       acurrent()    for the event loop, which it never blocks
"""
