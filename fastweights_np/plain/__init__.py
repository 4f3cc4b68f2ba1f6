"""The equations and their gradients, as plainly as they can be written: one file a layer, forward and backward.

No `out=`, no views, no classes, no argument checks, and no import from the rest of the package. Each backward line
stands under the forward line that it inverts; its number, such as (F6), points into DERIVATION.md. `forward` runs under
`np` = numpy, autograd.numpy or cupy. The fast layers of the same names compute the same numbers.
"""
