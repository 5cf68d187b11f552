! Stillpoint's interface for Fortran programs. What each does stands in stillpoint.h; link with stillpoint_fortran.c.
module stillpoint
  use, intrinsic :: iso_c_binding, only: c_int, c_long_long, c_funptr, c_ptr
  implicit none
  private
  public :: stillpoint_present, stillpoint_request_checkpoint, stillpoint_good_moment, stillpoint_forbid, &
            stillpoint_allow, stillpoint_checkpoint_wanted, stillpoint_on_checkpoint, stillpoint_epoch, &
            stillpoint_restarts

  interface
    integer(c_int) function stillpoint_present() bind(c, name="stillpoint_f_present")
      import :: c_int
    end function
    integer(c_int) function stillpoint_request_checkpoint() bind(c, name="stillpoint_f_request_checkpoint")
      import :: c_int
    end function
    integer(c_int) function stillpoint_good_moment() bind(c, name="stillpoint_f_good_moment")
      import :: c_int
    end function
    subroutine stillpoint_forbid(deadline_ms) bind(c, name="stillpoint_f_forbid")
      import :: c_int
      integer(c_int), value :: deadline_ms
    end subroutine
    subroutine stillpoint_allow() bind(c, name="stillpoint_f_allow")
    end subroutine
    integer(c_int) function stillpoint_checkpoint_wanted() bind(c, name="stillpoint_f_checkpoint_wanted")
      import :: c_int
    end function
    ! Subroutines with bind(c) and one argument, type(c_ptr), value; c_null_funptr where there is nothing to do.
    integer(c_int) function stillpoint_on_checkpoint(before, after, restarted, context) &
        bind(c, name="stillpoint_f_on_checkpoint")
      import :: c_int, c_funptr, c_ptr
      type(c_funptr), value :: before, after, restarted
      type(c_ptr), value :: context
    end function
    integer(c_long_long) function stillpoint_epoch() bind(c, name="stillpoint_f_epoch")
      import :: c_long_long
    end function
    integer(c_int) function stillpoint_restarts() bind(c, name="stillpoint_f_restarts")
      import :: c_int
    end function
  end interface
end module stillpoint
