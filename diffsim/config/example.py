"""The file that `diffsim init` writes."""

EXAMPLE = """\
# A diffusion problem for the `diffsim` command. Every key is the Python name of the same thing.
#
#     diffsim simulate {name}            run it
#     diffsim equilibrium {name}         where it settles
#     diffsim stability {name}           which steps are stable
#     diffsim simulate {name} --set problem.diffusivity=2e-5 --dry-run
#
# Numbers are in SI units (or any consistent ones). A string may carry a unit: "111 mm^2/s" (needs the package pint).

[grid]
shape = [96, 48]              # cells along x and y; one to three axes
lengths = [0.2, 0.1]          # size of the box [m]
# geometry = "cylindrical"    # axes r, z; or "spherical": axis r

[problem]
diffusivity = 1.1e-4          # D [m^2/s]; with a capacity other than 1, the conductivity [W/m/K]
# diffusivity = {{ file = "map.png", black = 1e-6, white = 1e-4 }}       # an array from an image, .npy or .csv
# diffusivity = {{ x = 1e-4, y = 2e-4 }}                                 # one value per axis
# capacity = 1.0              # heat per volume and kelvin
# loss = 0.0                  # exchange with surroundings at `ambient`, per volume
# ambient = 0.0
# source = 0.0                # heat per volume and time; {{ series = "power.csv" }} varies in time

[boundary.x-]
kind = "value"                # the wall has this value; {{ series = "log.csv", time = 0, column = 1 }} for a record
value = 100.0

[boundary."x+"]
kind = "robin"                # -D du/dn = h (u - ambient)
h = 1e-3
ambient = 20.0

# [boundary.y]                # both ends of y; a side that is left out lets nothing through
# kind = "periodic"

# [[region]]                  # parts with other coefficients; later ones win
# box = {{ x = [0.05, 0.10], y = [0.0, 0.05] }}
# diffusivity = 1e-6

[run]
initial = 20.0                # or {{ file = "start.npy" }}, or a saved run to continue
until = 60.0                  # end of the run [s]
scheme = "auto"               # or ftcs, rk4, rkl2, backward-euler, crank-nicolson, tr-bdf2, ...
dt = "auto"                   # step [s]; a step above the stability limit is refused
save = 31                     # frames, or a list of times, or "final"

[run.probes]
middle = [0.1, 0.05]          # values at points, over time

[sweep]                       # diffsim sweep {name}
dts = [1e-3, 1e-2, 0.1, 1.0]
steps = [10, 100, 1000]
"""
